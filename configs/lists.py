"""The committed lists, by name."""

from configs.recipes import RECIPES, SEEDS
from configs.studies import Study, contrastive, crossentropy, identity, imgspace, manual, modules, routing

GPU = "200 epochs an entry, made for a GPU each."
CLEAN = "TIME"
NO_TABLE = "no table was published"

LISTS = {
    "demo": Study(
        # Autoencoders early: the classifier that waits for them trains beside the others, not after them.
        [identity, imgspace, crossentropy, contrastive, modules],
        time="TIME",
        expect="EXPECT",
        datasets=["FashionMNIST-mini"],
        seeds=[1],
        common={"epochs": 10, "evaluation": {"images": 1000}},
    ),
    "identity": Study([identity], f"{GPU} {CLEAN}", "EXPECT"),
    "crossentropy": Study([crossentropy], f"{GPU} {CLEAN}", "EXPECT"),
    "contrastive": Study([contrastive], f"{GPU} {CLEAN}", "EXPECT"),
    "modules": Study([modules], f"{GPU} {CLEAN}", "EXPECT"),
    "manual_modules": Study([manual], f"{GPU} {CLEAN}", "EXPECT"),
    "imgspace": Study([imgspace], f"{GPU} {CLEAN}", "EXPECT"),
    "routing": Study([routing], f"{GPU} {CLEAN}", "EXPECT"),
    "fashionmnist": Study(
        [identity, crossentropy, contrastive, manual, imgspace],
        time="TIME",
        expect="EXPECT",
        datasets=["FashionMNIST"],
        seeds=SEEDS[:2],
        common={"epochs": 5, "precision": "bfloat16", "evaluation": {"images": 1000}},
        recipe={
            # Where the search of the paper's authors put them on EMNIST; a search of our own would cost as much again as all the rest.
            "manual": {
                "level": {"Contrast": 1, "GaussianBlur": 1, "ImpulseNoise": 0, "Invert": 2, "Rotate90": 4, "Swirl": 2},
                "lr": 0.01,
                "weight": 1.0,
            }
        },
    ),
    "fashionmnist_small": Study(
        [identity, imgspace, crossentropy, contrastive, modules],
        time="TIME",
        expect="EXPECT",
        datasets=["FashionMNIST"],
        seeds=SEEDS[:2],
        common={"model": "SmallNet", "epochs": 5, "evaluation": {"images": 2000}},
        recipe=RECIPES["FashionMNIST-mini"] | {"module": RECIPES["FashionMNIST-mini"]["module"] | {"search_epochs": 1}},
    ),
}
