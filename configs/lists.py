"""The committed lists, by name."""

from configs.studies import Study, contrastive, crossentropy, identity, imgspace, manual, modules, routing

GPU = "200 epochs an entry, made for a GPU each."
CLEAN = "TIME"
NO_TABLE = "no table was published"

LISTS = {
    "demo": Study(
        [identity, crossentropy, contrastive, modules, imgspace],
        time="TIME",
        expect="EXPECT",
        datasets=["FashionMNIST-mini"],
        seeds=[1],
        common={"epochs": 12, "evaluation": {"images": 1000}},
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
        seeds=[38164641, 13579111],
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
}
