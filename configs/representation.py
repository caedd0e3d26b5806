"""The committed lists of analyses of representations, as matrices: what is trained, and what is looked at in its layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import info_dicts
from configs.matrix import flatten
from configs.studies import Fields, set_key

# As in the published experiments (arXiv 2006.08679, 2102.01582, 2106.12307): Adam, batches of 128, 30 epochs, images cropped and flipped.
TRAINING: Fields = {
    "dataset": "CIFAR10",
    "method": "Identity",
    "seed": 0,
    "epochs": 30,
    "batch_size": 128,
    "optimizer": "Adam",
    "schedule": "constant",
    "lr": 0.001,
    "weight_decay": 0.0,
}
CLEAN: Fields = {"compositions": ["Identity"]}
LAYERS: Fields = {"receptive_field": {}, "cost": {}}
SMALL = ("", "_S", "_XS", "_XXS", "_XXXS")


@dataclass(frozen=True)
class LayerStudy:
    """A list that is a matrix, and the header's words. `plots` are the commands that draw it."""

    matrix: Sequence[Fields]
    time: str
    expect: str
    recipes: Mapping[str, Any] = field(default_factory=lambda: {str(name): {} for name in info_dicts.DATASETS.values()})

    def entries(self, name: str, choices: Mapping[str, Sequence[Any]] | None = None) -> list[tuple[str, list[Fields]]]:
        """The entries in blocks, each with a title; `choices` maps (dotted) keys to values that take the place of the matrix's own."""
        matrix = [{"study": name.replace("/", " "), **entry} for entry in self.matrix]
        for key, values in (choices or {}).items():
            value = list(values) if len(values) > 1 else values[0]
            matrix = [set_key(entry, key, value) for entry in matrix]
        return flatten(name, matrix)


def command(*figures: str) -> str:
    """What a header says of figures."""
    return f"Then: {'; '.join(f'python -m plots {figure} THIS' for figure in figures)}."


DEMO: Fields = {"dataset": "FashionMNIST-mini", "seed": 1, "epochs": 6, "evaluation": {"images": 1000, "compositions": "elementals"}}
DEMO_ANALYSES: Fields = {
    "saturation": {"along": 1, "delta": [0.95, 0.99], "images": 1000},
    "projection": {"train_images": 2000},
    "probes": {"at": "both", "train_images": 1000, "images": 1000},
    "receptive_field": {}, "cost": {}, "metrics": {"compositions": "elementals", "metrics": ["mcc", "top5_accuracy"], "images": 1000},
}  # fmt: skip
NOT_RUN = "The list has not been run at this length, so there are no numbers."
REPRESENTATION = {
    "representation_demo": LayerStudy(
        [
            DEMO | {"method": ["Identity", "CrossEntropy"], "lr": 0.05, "analyses": DEMO_ANALYSES},
            DEMO | {
                "method": "ModularSystem", "backbone": {"lr": 0.05}, "module": {"level": "auto", "search_epochs": 1, "lr": 0.01, "weight": 1.0},
                "analyses": {"probes": DEMO_ANALYSES["probes"] | {"untrained": False}, "saturation": {"images": 1000, "delta": [0.95, 0.99]}},
            },
        ],
        time="3.5 minutes on 2 cores that had other work, no GPU: two networks and a modular system on FashionMNIST-mini, 7 compositions of 1,000 test images.",
        expect="Expect, as mean accuracy on the seven single corruptions: Identity 52 %, CrossEntropy 84 %, ModularSystem 75 %. Then: python -m plots layers THIS; python -m plots probe_profiles THIS.",
    ),
    "representation/cifar10": LayerStudy(
        [
            {
                "dataset": "CIFAR10", "method": "Identity", "lr": 0.05, "epochs": 3, "batch_size": 128, "seed": 1, "evaluation": {"images": 1000, "compositions": "elementals"},
                "analyses": {
                    "saturation": {"along": 4, "images": 2000}, "projection": {"train_images": 5000, "images": 2000},
                    "probes": {"train_images": 2000, "images": 2000}, "receptive_field": {}, "cost": {},
                },
            },
        ],
        time="35 minutes on 2 cores that had other work, no GPU: a ResNet-18 trained for 3 epochs (22 min), and all analyses of its 21 layers under 7 compositions (12 min).",
        expect=f"Expect 59 % on clean images, probes that gain up to block 6, and saturation that falls behind it. {command('layers', 'layers_over_epochs', 'probe_profiles', 'projection')}",
    ),
    "representation/saturation": LayerStudy(
        [TRAINING | {"model": ["VGG16", "ResNet18-stem3-w64", "ResNet18-stem7-w64"], "evaluation": CLEAN, "analyses": {"saturation": {"along": 4, "delta": [0.99]} | CLEAN, "probes": CLEAN} | LAYERS}],
        time="30 epochs an entry, for a GPU each; on 2 cores that had other work an epoch of ResNet18-stem7-w64 at 32 px took 7 min.",
        expect=f"Expect a tail of layers with low saturation behind the border of the receptive field, where probes no longer gain. {command('layers', 'layers_over_epochs')} {NOT_RUN}",
    ),
    "representation/resolution": LayerStudy(
        [TRAINING | {"model": ["VGG16", "ResNet18"], "resolution": [32, 64, 128, 224], "evaluation": CLEAN, "analyses": {"saturation": CLEAN, "probes": CLEAN, "projection": {}} | LAYERS}],
        time="30 epochs an entry, for a GPU each; on 2 cores that had other work an epoch of ResNet18-stem7-w64 at 32 px took 7 min.",
        expect=f"Expect the layers that gain to move to the end as the image grows beyond the field. {command('layers', 'projection')} {NOT_RUN}",
    ),
    "representation/receptive_field": LayerStudy(
        [TRAINING | {"model": ["ResNet18", "ResNet18-noskip", "ResNet18-stem3-w64", "ResNet34", "ResNet34-noskip", "VGG11", "VGG13", "VGG16", "VGG19"], "evaluation": CLEAN, "analyses": {"saturation": CLEAN, "probes": CLEAN} | LAYERS}],
        time="30 epochs an entry, for a GPU each; on 2 cores that had other work an epoch of ResNet18-stem7-w64 at 32 px took 7 min.",
        expect=f"Expect the border of the field to tell where a network's tail begins; with skip connections, by the smallest field. {command('layers')} {NOT_RUN}",
    ),
    "representation/pixelwise": LayerStudy(
        [TRAINING | {"model": ["VGG16", "ResNet18-stem7-w64"], "evaluation": CLEAN, "analyses": {"probes": {"pooling": "pixel", "own": False, "untrained": False, "train_images": 10000, **CLEAN}}}],
        time="30 epochs an entry, for a GPU each; on 2 cores that had other work an epoch of ResNet18-stem7-w64 at 32 px took 7 min. Then thousands of small probes.",
        expect=f"Expect single positions to tell little of the class before the border, and nearly as much as the whole behind it. {command('probe_map')} {NOT_RUN}",
    ),
    "representation/dissection": LayerStudy(
        [
            TRAINING | {"model": [f"{family}{size}" for family in ("VGG11", "VGG13", "VGG16", "VGG19", "ResNet18", "ResNet34") for size in SMALL], "evaluation": CLEAN, "analyses": {"saturation": CLEAN, "probes": CLEAN, "projection": {}} | LAYERS},
            TRAINING | {"model": ["ResNet50", "ResNet101", "ResNet152"], "evaluation": CLEAN, "analyses": {"saturation": CLEAN, "projection": {}} | LAYERS},
        ],
        time="30 epochs an entry, for a GPU each; on 2 cores that had other work an epoch of ResNet18-stem7-w64 at 32 px took 7 min.",
        expect=f"Expect mean saturation to fall and accuracy to rise with width. {command('layers', 'projection', 'layer_table')} {NOT_RUN}",
    ),
    "representation/compositions": LayerStudy(
        [
            {
                "dataset": "FashionMNIST", "model": "SmallNet", "seed": [1, 2], "epochs": 5, "evaluation": {"images": 1000},
                "method": ["Identity", "CrossEntropy"], "lr": 0.05,
                "analyses": {"probes": {"at": "levels", "train_images": 5000, "images": 1000, "compositions": "elementals"}, "saturation": {"images": 1000}},
            },
            {
                "dataset": "FashionMNIST", "model": "SmallNet", "seed": [1, 2], "epochs": 5, "evaluation": {"images": 1000}, "method": "ModularSystem",
                "backbone": {"lr": 0.05}, "module": {"level": "auto", "search_epochs": 1, "lr": 0.01, "weight": 1.0},
                "analyses": {"probes": {"at": "levels", "train_images": 5000, "images": 1000, "compositions": "elementals", "untrained": False}, "saturation": {"images": 1000}},
            },
        ],
        time="Not measured; by the demo, about 1 hour on 2 cores, no GPU.",
        expect=f"Expect modules to bring the levels behind them back to the clean code. {command('probe_profiles', 'saturation_profiles')} {NOT_RUN}",
    ),
}  # fmt: skip
