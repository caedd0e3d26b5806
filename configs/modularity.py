"""The committed lists of studies of clusterability (Filan et al., arXiv 2003.04881, 2103.03386), as matrices."""

from configs.representation import CLEAN, NOT_RUN, LayerStudy, command
from configs.studies import Fields

# As published: Adam, no weight decay, pixels in 0..1, the last weights; then 90 % of the weights are pruned in as many epochs.
TRAINING: Fields = {
    "method": "Identity",
    "seed": [0, 1, 2, 3, 4],
    "epochs": 20,
    "batch_size": 128,
    "optimizer": "Adam",
    "schedule": "constant",
    "lr": 0.001,
    "weight_decay": 0.0,
    "inputs": "unit",
    "keep": "last",
    "evaluation": CLEAN,
}
MLP: Fields = TRAINING | {"model": "MLP-256x4", "pruning": {"epochs": 20}}
DROPOUT: Fields = {"model": "MLP-256x4-dropout"}
GREY: Fields = MLP | {"dataset": "CIFAR10", "resolution": 28, "pruning": {"epochs": 40}}
GREY_DROPOUT: Fields = {"model": "MLP-256x4-dropout0.2", "epochs": 100}
PENALTY = 5e-5
CUT: Fields = {"clusterability": {"shuffle": ["layer", "layer_nonzero"], "along": 5}}
LESIONS: Fields = {"lesions": {"clusters": 10}}
CNN: Fields = TRAINING | {
    "model": "CNN-64x3",
    "epochs": 10,
    "batch_size": 64,
    "pruning": {"epochs": 10},
    "analyses": {"clusterability": {"clusters": 12, "shuffles": 50}},
}
POLYNOMIALS: Fields = TRAINING | {
    "dataset": "Polynomials",
    "method": "Regression",
    "inputs": "standardised",
    "pruning": {"epochs": 20},
    "analyses": {"clusterability": {"clusters": 12}},
}
VARIANTS: list[Fields] = [{"l1": PENALTY}, {"l2": PENALTY}, {"clusterable_start": {}}]
PLAIN: Fields = {}
BOTH = ["MNIST", "FashionMNIST"]
PAIRS = [f"{kind}-{base}" for kind in ("Halves", "HalvesSame") for base in BOTH]
STACKED = [f"{kind}-{base}" for kind in ("Stacked", "StackedSame") for base in BOTH]
MIXED = ["Lines+MNIST", "MNIST+FashionMNIST", "Lines+MNIST-separated", "MNIST+FashionMNIST-separated"]

DEMO: Fields = TRAINING | {
    "dataset": "FashionMNIST-mini",
    "seed": 1,
    "epochs": 10,
    "pruning": {"epochs": 10},
    "evaluation": {"compositions": "elementals", "images": 1000},
}
DEMO_CUT: Fields = {"shuffles": 60, "shuffle": ["layer", "layer_nonzero"], "weights": ["final", "unpruned", "untrained"], "along": 1}
MODULARITY = {
    "modularity_demo": LayerStudy(
        [
            DEMO | {
                "model": ["MLP-256x4", "MLP-256x4-dropout"],
                "analyses": {
                    "clusterability": DEMO_CUT, "lesions": {"labelings": 40, "pair_labelings": 20, "images": 1000},
                    "coactivation": {"images": 1000, "shuffles": 20},
                },
            },
            {
                "dataset": "FashionMNIST-mini", "method": "ModularSystem", "seed": 1, "epochs": 4, "evaluation": {"compositions": "elementals", "images": 1000},
                "backbone": {"lr": 0.05}, "module": {"level": 3, "lr": 0.05, "weight": 0.1}, "analyses": {"clusterability": {"shuffles": 60}},
            },
        ],
        time="7 minutes on 2 cores that ran a test suite beside it, no GPU: two pruned MLPs and a modular system on FashionMNIST-mini.",
        expect=f"Expect n-cuts of 1.94 and, with dropout, 1.91 beside 2.04 and 2.05 of shuffled layers (z -6, -9), 6 of 10 and 7 of 10 important clusters; the backbone and modules of the system are cut no better than shuffles. {command('cuts', 'lesions')}",
    ),
    "mlp": LayerStudy(
        [
            # The headline table: entries 0 to 19.
            *(MLP | {"dataset": own} | model | {"analyses": CUT} for own in BOTH for model in (PLAIN, DROPOUT)),
            *(MLP | {"dataset": own} | more | {"analyses": CUT} for own in BOTH for more in VARIANTS),
            *(GREY | model | {"analyses": CUT} for model in (PLAIN, GREY_DROPOUT)),
            MLP | {"dataset": "CIFAR10", "model": "MLP-256x4-colour", "pruning": {"epochs": 40}, "analyses": CUT},
            *(MLP | {"dataset": "Lines"} | model | {"analyses": CUT} for model in (PLAIN, DROPOUT)),
            MLP | {"dataset": ["Circles", "Noise", *PAIRS], "analyses": CUT},
            MLP | {"dataset": MIXED, "epochs": 30, "pruning": {"epochs": 40}, "analyses": CUT},
            # The regulariser, on images of 7 px.
            TRAINING | {
                "dataset": "MNIST", "resolution": 7, "model": "MLP-64x3", "epochs": 10, "pruning": {"epochs": 10}, "analyses": {"clusterability": {"clusters": 12}},
            },
            TRAINING | {
                "dataset": "MNIST", "resolution": 7, "model": "MLP-64x3", "epochs": 10, "pruning": {"epochs": 10}, "cut_penalty": {"weight": 0.1},
                "analyses": {"clusterability": {"clusters": 12}},
            },
            *(POLYNOMIALS | more for more in (PLAIN, *VARIANTS[:2])),
        ],
        time="3 to 4 minutes an entry of 20 + 20 epochs on one of 2 cores, no GPU, and 1 minute for its 640 shuffles: the first 20 took 55 minutes.",
        expect=f"Expect n-cuts below those of shuffled layers: MNIST 2.01 (2.04), with dropout 1.84 (2.04), FashionMNIST 1.96 (2.00), with dropout 1.75 (2.02), means of five. {command('stability', 'cuts', 'cut_accuracy', 'cut_curves')}",
    ),
    "mlp_lesion": LayerStudy(
        [
            *(MLP | {"dataset": own, "seed": 0, "analyses": LESIONS} | model for own in (*BOTH, "Lines") for model in (PLAIN, DROPOUT)),
            *(GREY | {"seed": 0, "analyses": LESIONS} | model for model in (PLAIN, GREY_DROPOUT)),
            MLP | {"dataset": "Noise", "seed": 0, "analyses": LESIONS},
        ],
        time="3 to 4 minutes an entry on one of 2 cores, no GPU, where configs/mlp.yaml has not trained it, and about 2 minutes for its lesions (not measured).",
        expect=f"Expect about 10 of 24 clusters of layers to be important (published: MNIST 10, with dropout 7). {command('lesion_table', 'lesions')} {NOT_RUN}",
    ),
    "mlp_double_lesion": LayerStudy(
        [
            MLP | {"dataset": own, "seed": 0} | model | {"analyses": {"lesions": {"clusters": 10, "labelings": 50, "pair_labelings": 50}}}
            for own in BOTH for model in (PLAIN, DROPOUT)
        ],
        time="3 to 4 minutes an entry on one of 2 cores, no GPU, where configs/mlp.yaml has not trained it; the pairs, about 20 minutes each, are not measured.",
        expect=f"Expect most important pairs to depend in one direction (published: type III). {command('double_lesion_table', 'joint_lesions', 'dependencies')} {NOT_RUN}",
    ),
    "cnn": LayerStudy(
        [
            *(CNN | {"dataset": own} | more for own in BOTH for more in (PLAIN, {"model": "CNN-64x3-dropout"}, *VARIANTS[:2], {"clusterable_start": {"d": 0.8}})),
            CNN | {"dataset": STACKED},
            *(CNN | {"dataset": own, "model": ["CNN-32x2", "CNN-32x2-dropout"], "batch_size": 128} for own in BOTH),
            TRAINING | {
                "dataset": "CIFAR10", "model": "VGG16", "epochs": 200, "augmentation": "CropFlip", "pruning": {"epochs": 50}, "l2": [0.0, 5e-4],
                "analyses": {"clusterability": {"clusters": 12, "shuffles": 50}},
            },
        ],
        time="Not measured; for a GPU each: 20 epochs an entry, 250 of VGG16. On 2 cores that had other work an epoch of ResNet18-stem7-w64 at 32 px took 7 min.",
        expect=f"Expect unpruned networks near their shuffles (published: 10.69 and 10.67 at k = 12), L2 and a clusterable start below them. {command('stability', 'cuts')} {NOT_RUN}",
    ),
}  # fmt: skip
