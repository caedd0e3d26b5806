"""The menus: integer -> name. A list may write the number or the name; both mean the same experiment.

Numbers are append-only: once landed, a number never changes its meaning, because old lists and old W&B runs carry it.
A name is a string that also carries the facts which must be known without loading torch (image shapes, class counts,
numbers of blocks, severities), as attributes: ``DATASETS[1].classes``. This file imports nothing.
"""


class Choice(str):
    """A name on a menu, with its facts as attributes."""

    facts: dict[str, object]

    def __new__(cls, name: str, **facts: object) -> "Choice":
        choice = super().__new__(cls, name)
        choice.facts = facts
        return choice

    def __getattr__(self, fact: str):
        facts = self.__dict__.get("facts", {})
        if fact in facts:
            return facts[fact]
        raise AttributeError(f"{str(self)!r} has no fact {fact!r}")

    def __getnewargs_ex__(self):
        return (str(self),), self.facts


def _composed(
    name: str, shape: tuple[int, int, int] = (1, 28, 28), counts: tuple[int, int, int] = (50_000, 10_000, 10_000), model: str = "MLP-256x4"
) -> Choice:
    """A data set of data/composed.py."""
    return Choice(name, classes=10, shape=shape, counts=counts, mean=(0.5,), std=(0.5,), model=model, augmentation="None", padding=4)


# Image shapes are (channels, height, width) as stored; networks always see three channels.
# `counts` are train / valid / test totals, () where they depend on the user's copy; `mean` and `std` are those of pixels in 0..1;
# `padding` is the random crop's. `cues` names the one or two spurious cues that images can carry (MECHANISMS).
DATASETS = {
    0: Choice(
        "FashionMNIST-mini",
        classes=10,
        shape=(1, 28, 28),
        counts=(6_000, 1_000, 2_000),
        mean=(0.5,),
        std=(0.5,),
        model="SmallNet",
        augmentation="None",
        padding=4,
        cues=("box",),
    ),
    1: Choice(
        "MNIST",
        classes=10,
        shape=(1, 28, 28),
        counts=(50_000, 10_000, 10_000),
        mean=(0.5,),
        std=(0.5,),
        model="EMNISTNet",
        augmentation="None",
        padding=4,
        cues=("box",),
    ),
    2: Choice(
        "FashionMNIST",
        classes=10,
        shape=(1, 28, 28),
        counts=(50_000, 10_000, 10_000),
        mean=(0.5,),
        std=(0.5,),
        model="EMNISTNet",
        augmentation="None",
        padding=4,
        cues=("box",),
    ),
    3: Choice(
        "CIFAR10",
        classes=10,
        shape=(3, 32, 32),
        counts=(40_000, 10_000, 10_000),
        mean=(0.49086496, 0.48182634, 0.44628558),
        std=(0.24671966, 0.24326433, 0.26157698),
        model="ResNet18-stem7-w64",
        augmentation="CropFlip",
        padding=4,
        cues=("position", "colour"),
    ),
    4: Choice(
        "EMNIST",
        classes=47,
        shape=(1, 28, 28),
        counts=(94_000, 18_800, 18_800),
        mean=(0.5,),
        std=(0.5,),
        model="EMNISTNet",
        augmentation="None",
        padding=4,
    ),
    5: Choice(
        "FaceScrub",
        classes=388,
        shape=(3, 100, 100),
        counts=(),
        mean=(0.6166735, 0.46459484, 0.3915861),
        std=(0.2678699, 0.2301332, 0.22064506),
        model="InceptionV3",
        augmentation="CropFlip",
        padding=10,
    ),
    6: Choice(
        "ORL",
        classes=40,
        shape=(1, 112, 112),
        counts=(240, 80, 80),
        mean=(0.36224519,),
        std=(0.24397351,),
        model="InceptionV3",
        augmentation="CropFlip",
        padding=10,
    ),
    7: Choice(
        "CIFAR100",
        classes=100,
        shape=(3, 32, 32),
        counts=(40_000, 10_000, 10_000),
        mean=(0.5,),
        std=(0.5,),
        model="ResNet18-stem7-w64",
        augmentation="CropFlip",
        padding=4,
        cues=("position", "colour"),
    ),
    8: Choice(
        "Dominoes",
        classes=10,
        shape=(3, 64, 32),
        counts=(40_000, 10_000, 10_000),
        mean=(0.5,),
        std=(0.5,),
        model="ResNet20_Wide",
        augmentation="None",
        padding=4,
        cues=("box", "FashionMNIST"),
    ),
    # `factors`: the sizes of the grid of floor, wall and object hue, scale, shape and orientation.
    9: Choice(
        "3DShapes",
        classes=8,
        shape=(3, 64, 64),
        counts=(384_000, 48_000, 48_000),
        mean=(0.5,),
        std=(0.5,),
        model="ResNet18",
        augmentation="None",
        padding=4,
        cues=("floor", "scale"),
        factors=(10, 10, 10, 8, 4, 15),
    ),
    10: Choice(
        "3DShapes-small",
        classes=8,
        shape=(3, 64, 64),
        counts=(6_144, 768, 768),
        mean=(0.5,),
        std=(0.5,),
        model="LeNet5",
        augmentation="None",
        padding=4,
        cues=("floor", "scale"),
        factors=(10, 2, 4, 8, 4, 3),
    ),
    # Three features instead of an image; mean and std leave them as they are, since pixels are divided by 255.
    11: Choice(
        "Slabs",
        classes=2,
        shape=(3, 1, 1),
        counts=(3_000, 1_000, 3_000),
        mean=(0.0,) * 3,
        std=(1 / 255,) * 3,
        model="MLP-100-200-100",
        augmentation="None",
        padding=0,
        cues=("4 blocks", "7 blocks"),
        dtype="float32",
    ),
    # Of data/composed.py: drawn, or made of others. Pairs of images in one, and two data sets as one.
    12: _composed("Lines"),
    13: _composed("Circles"),
    14: _composed("Noise"),
    15: _composed("Halves-MNIST"),
    16: _composed("Halves-FashionMNIST"),
    17: _composed("HalvesSame-MNIST"),
    18: _composed("HalvesSame-FashionMNIST"),
    19: _composed("Stacked-MNIST", shape=(3, 28, 28), model="CNN-64x3"),
    20: _composed("Stacked-FashionMNIST", shape=(3, 28, 28), model="CNN-64x3"),
    21: _composed("StackedSame-MNIST", shape=(3, 28, 28), model="CNN-64x3"),
    22: _composed("StackedSame-FashionMNIST", shape=(3, 28, 28), model="CNN-64x3"),
    23: _composed("Lines+MNIST", counts=(100_000, 20_000, 20_000)),
    24: _composed("MNIST+FashionMNIST", counts=(100_000, 20_000, 20_000)),
    25: _composed("Lines+MNIST-separated", counts=(49_404, 10_000, 9_861)),
    26: _composed("MNIST+FashionMNIST-separated", counts=(50_596, 10_000, 10_139)),
    # Two features, and nothing in the third channel; `values`: no classes, but so many functions of the features, for Regression.
    27: Choice(
        "Polynomials",
        classes=512,
        shape=(3, 1, 1),
        counts=(50_000, 10_000, 10_000),
        mean=(0.0,) * 3,
        std=(1 / 255,) * 3,
        model="MLP-256x4-points",
        augmentation="None",
        padding=0,
        dtype="float32",
        values=True,
    ),
}

# `oracle`: what a system is told about the corruptions of an image at test time; parts have none.
METHODS = {
    0: Choice("Identity", oracle="none"),
    1: Choice("CrossEntropy", oracle="none"),
    2: Choice("Contrastive", oracle="none"),
    3: Choice("Module"),
    4: Choice("ModularSystem", oracle="names, order"),
    5: Choice("Autoencoder"),
    6: Choice("JointClassifier"),
    7: Choice("ImgSpaceIdentity", oracle="names, order"),
    8: Choice("ImgSpaceJoint", oracle="names, order"),
    9: Choice("Router"),
    10: Choice("Teacher"),
    11: Choice("Student"),
    12: Choice("Regression"),
}

# `severities`: the parameter at severity 1..5 (none where there is nothing to set); `default` is the published severity.
CORRUPTIONS = {
    0: Choice("Identity", abbreviation="ID", severities=(), default=None),
    1: Choice("Contrast", abbreviation="CO", severities=(0.4, 0.3, 0.2, 0.1, 0.05), default=2),
    2: Choice("GaussianBlur", abbreviation="GB", severities=(1.0, 2.0, 3.0, 4.0, 6.0), default=2),
    3: Choice("ImpulseNoise", abbreviation="IM", severities=(0.03, 0.06, 0.09, 0.17, 0.27), default=5),
    4: Choice("Invert", abbreviation="IN", severities=(), default=None),
    5: Choice("Rotate90", abbreviation="R90", severities=(), default=None),
    6: Choice("Swirl", abbreviation="SW", severities=(0.5, 1.0, 3.0, 5.0, 10.0), default=3),
}

# `blocks`: how many; block i takes level i, the last block is the linear classifier. `sizes`: the widths of images that it takes, in pixels.
# `parts`: whether modules and autoencoders are made for it. `depth`: its default, where it has any depth 6n + 2. `width`: what every width is multiplied by.
MODELS = {
    0: Choice("SmallNet", blocks=5, sizes=(28,)),
    1: Choice("EMNISTNet", blocks=6, sizes=(28,)),
    2: Choice("ResNet18-stem7-w64", blocks=10, sizes=(32,)),
    3: Choice("InceptionV3", blocks=17, sizes=(100, 112)),
    4: Choice("LeNet5", blocks=6, sizes=range(28, 1025), parts=False),
    5: Choice("ResNet18", blocks=11, sizes=range(28, 1025), parts=False),
    6: Choice("ResNet50", blocks=19, sizes=range(28, 1025), parts=False),
    7: Choice("ResNet20_Wide", blocks=6, sizes=range(28, 1025), parts=False, depth=20),
    # For three features instead of images.
    8: Choice("MLP-100-200-100", blocks=4, sizes=(1,), parts=False),
    9: Choice("MLP-10", blocks=2, sizes=(1,), parts=False),
    10: Choice("MLP-50", blocks=2, sizes=(1,), parts=False),
    # Names that end in S, XS, XXS, XXXS are narrow variants.
    11: Choice("VGG11", blocks=11, sizes=range(32, 1025), parts=False),
    12: Choice("VGG11_S", blocks=11, sizes=range(32, 1025), parts=False, width=1 / 2),
    13: Choice("VGG11_XS", blocks=11, sizes=range(32, 1025), parts=False, width=1 / 4),
    14: Choice("VGG11_XXS", blocks=11, sizes=range(32, 1025), parts=False, width=1 / 8),
    15: Choice("VGG11_XXXS", blocks=11, sizes=range(32, 1025), parts=False, width=1 / 16),
    16: Choice("VGG13", blocks=13, sizes=range(32, 1025), parts=False),
    17: Choice("VGG13_S", blocks=13, sizes=range(32, 1025), parts=False, width=1 / 2),
    18: Choice("VGG13_XS", blocks=13, sizes=range(32, 1025), parts=False, width=1 / 4),
    19: Choice("VGG13_XXS", blocks=13, sizes=range(32, 1025), parts=False, width=1 / 8),
    20: Choice("VGG13_XXXS", blocks=13, sizes=range(32, 1025), parts=False, width=1 / 16),
    21: Choice("VGG16", blocks=16, sizes=range(32, 1025), parts=False),
    22: Choice("VGG16_S", blocks=16, sizes=range(32, 1025), parts=False, width=1 / 2),
    23: Choice("VGG16_XS", blocks=16, sizes=range(32, 1025), parts=False, width=1 / 4),
    24: Choice("VGG16_XXS", blocks=16, sizes=range(32, 1025), parts=False, width=1 / 8),
    25: Choice("VGG16_XXXS", blocks=16, sizes=range(32, 1025), parts=False, width=1 / 16),
    26: Choice("VGG19", blocks=19, sizes=range(32, 1025), parts=False),
    27: Choice("VGG19_S", blocks=19, sizes=range(32, 1025), parts=False, width=1 / 2),
    28: Choice("VGG19_XS", blocks=19, sizes=range(32, 1025), parts=False, width=1 / 4),
    29: Choice("VGG19_XXS", blocks=19, sizes=range(32, 1025), parts=False, width=1 / 8),
    30: Choice("VGG19_XXXS", blocks=19, sizes=range(32, 1025), parts=False, width=1 / 16),
    31: Choice("ResNet18_S", blocks=11, sizes=range(28, 1025), parts=False, width=1 / 2),
    32: Choice("ResNet18_XS", blocks=11, sizes=range(28, 1025), parts=False, width=1 / 4),
    33: Choice("ResNet18_XXS", blocks=11, sizes=range(28, 1025), parts=False, width=1 / 8),
    34: Choice("ResNet18_XXXS", blocks=11, sizes=range(28, 1025), parts=False, width=1 / 16),
    35: Choice("ResNet34", blocks=19, sizes=range(28, 1025), parts=False),
    36: Choice("ResNet34_S", blocks=19, sizes=range(28, 1025), parts=False, width=1 / 2),
    37: Choice("ResNet34_XS", blocks=19, sizes=range(28, 1025), parts=False, width=1 / 4),
    38: Choice("ResNet34_XXS", blocks=19, sizes=range(28, 1025), parts=False, width=1 / 8),
    39: Choice("ResNet34_XXXS", blocks=19, sizes=range(28, 1025), parts=False, width=1 / 16),
    40: Choice("ResNet101", blocks=36, sizes=range(28, 1025), parts=False),
    41: Choice("ResNet152", blocks=53, sizes=range(28, 1025), parts=False),
    42: Choice("ResNet18-noskip", blocks=11, sizes=range(28, 1025), parts=False),
    43: Choice("ResNet34-noskip", blocks=19, sizes=range(28, 1025), parts=False),
    44: Choice("ResNet18-stem3-w64", blocks=11, sizes=range(28, 1025), parts=False),
    # Of the mean over channels, but for the one for colours.
    45: Choice("MLP-256x4", blocks=5, sizes=(28,), parts=False),
    46: Choice("MLP-256x4-dropout", blocks=5, sizes=(28,), parts=False),
    47: Choice("MLP-256x4-dropout0.2", blocks=5, sizes=(28,), parts=False),
    48: Choice("MLP-256x4-colour", blocks=5, sizes=(32,), parts=False),
    49: Choice("MLP-64x3", blocks=4, sizes=(7,), parts=False),
    50: Choice("CNN-64x3", blocks=5, sizes=(28,), parts=False),
    51: Choice("CNN-64x3-dropout", blocks=5, sizes=(28,), parts=False),
    52: Choice("CNN-32x2", blocks=4, sizes=(28,), parts=False),
    53: Choice("CNN-32x2-dropout", blocks=4, sizes=(28,), parts=False),
    54: Choice("MLP-256x4-points", blocks=5, sizes=(1,), parts=False),
}

# Drawn on clean training images, before any corruption or cue, the same for every view of an image. `cues`: for Teacher and Student alone.
AUGMENTATIONS = {
    0: Choice("None"),
    1: Choice("CropFlip"),  # zero padding and a random crop back to size, then a horizontal flip with p = 0.5
    2: Choice("Mixup", cues=True),  # pairs of images and of their labels, mixed
    3: Choice("CropFlipRotate", cues=True),  # a crop of 15/16 of the side, flips in both directions, a rotation by up to 45 degrees
    4: Choice("Union", cues=True),  # every image twice: under the mechanism, and without cues
}

# What a student is trained with besides or instead of the teacher's logits. `term`: there is a second term, weighted by alpha;
# `temperature`: its default.
LOSSES = {
    0: Choice("Base", term=False, teacher=True),  # KL(teacher || student) of tempered logits
    1: Choice("Jacobian", term=True, teacher=True),
    2: Choice("Contrastive", term=True, teacher=True, temperature=0.1),
    3: Choice("FeatureMatching", term=True, teacher=True),
    4: Choice("AttentionTransfer", term=True, teacher=True),
    5: Choice("CRD", term=True, teacher=True, temperature=0.07),
    6: Choice("Labels", term=False, teacher=False),  # cross-entropy on labels: the control
}

# What follows the gradient. `beta1`: where `momentum` is the decay of the mean gradient; elsewhere it is that of the velocity.
OPTIMIZERS = {
    0: Choice("SGD", beta1=False),
    1: Choice("Adam", beta1=True),
    2: Choice("AdamW", beta1=True),  # its weight decay is decoupled
    3: Choice("RAdam", beta1=True),
    4: Choice("RMSprop", beta1=False),
}

# How the learning rate goes on from lr.
SCHEDULES = {
    0: Choice("cosine"),  # to 0, or to final_lr
    1: Choice("step"),  # times step_factor after every step_epochs epochs
    2: Choice("constant"),
}

# What the answers on validation images are scored by after every epoch, where an entry names it; all are fractions but mcc, which is in -1..1.
METRICS = {
    0: Choice("accuracy"),
    1: Choice("top5_accuracy"),
    2: Choice("mcc"),
    3: Choice("balanced_accuracy"),
    4: Choice("f1_macro"),
}


def _mechanism(name: str, *numbers: float, short: str = "") -> Choice:
    """A mechanism: its six numbers, and its short name on axes."""
    return Choice(name, numbers=tuple(float(number) for number in numbers), short=short or name)


_BOX = {
    0: _mechanism("P", 1, 0, 0, 0, 0, 0),
    1: _mechanism("B", 1, 1, 0, 0, 0, 0),
    2: _mechanism("BR", 1, 1, 0, 0, 1, 0),
    3: _mechanism("BoxOnly", 1, 1, 0, 1, 0, 0, short="O"),
}
_SHAPES = {
    0: _mechanism("Shape_Color", 1, 0, 0, 0, 0, 0, short="I"),
    1: _mechanism("Floor", 1, 1, 0, 1, 0, 0, short="F"),
    2: _mechanism("Scale", 1, 0, 1, 1, 0, 0, short="S"),
    3: _mechanism("Floor_Scale", 1, 1, 1, 1, 0, 0, short="FS"),
    4: _mechanism("Shape_Color_Floor", 1, 1, 0, 0, 0, 0, short="IF"),
    5: _mechanism("Shape_Color_Scale", 1, 0, 1, 0, 0, 0, short="IS"),
    6: _mechanism("Shape_Color_Floor_Scale", 1, 1, 1, 0, 0, 0, short="IFS"),
}

# By data set: what its images tell of their class. Six numbers say it: the fraction of images whose content is there, the fractions that carry
# cue 1 and cue 2, and whether the content, cue 1 and cue 2 are drawn at random (1), so that they tell nothing. Append-only by data set.
MECHANISMS = {
    "FashionMNIST-mini": _BOX,
    "MNIST": _BOX,
    "FashionMNIST": _BOX,
    "CIFAR10": _BOX
    | {
        4: _mechanism("C", 1, 0, 1, 0, 0, 0),
        5: _mechanism("CR", 1, 0, 1, 0, 0, 1),
        6: _mechanism("BC", 1, 1, 1, 0, 0, 0),
        7: _mechanism("BCR", 1, 1, 1, 0, 1, 1),
    },
    "CIFAR100": {
        0: _mechanism("P", 1, 0, 0, 0, 0, 0),
        1: _mechanism("B", 1, 1, 1, 0, 0, 0),
        2: _mechanism("BR", 1, 1, 1, 0, 1, 1),
        3: _mechanism("BoxOnly", 1, 1, 1, 1, 0, 0, short="O"),
        4: _mechanism("Position", 1, 1, 0, 0, 0, 0),
        5: _mechanism("Colour", 1, 0, 1, 0, 0, 0),
    },
    "Dominoes": {
        # 0 to 6: every set of features that tell the class, by itself.
        0: _mechanism("CIFAR10", 1, 0, 0, 0, 0, 0, short="C"),
        1: _mechanism("FashionMNIST", 1, 0, 1, 1, 0, 0, short="M"),
        2: _mechanism("Box", 1, 1, 0, 1, 0, 0, short="B"),
        3: _mechanism("FashionMNIST_Box", 1, 1, 1, 1, 0, 0, short="MB"),
        4: _mechanism("CIFAR10_FashionMNIST", 1, 0, 1, 0, 0, 0, short="CM"),
        5: _mechanism("CIFAR10_Box", 1, 1, 0, 0, 0, 0, short="CB"),
        6: _mechanism("CIFAR10_FashionMNIST_Box", 1, 1, 1, 0, 0, 0, short="CMB"),
        # 7 to 10: cues that a part of the images carry, in per cent.
        7: _mechanism("CIFAR10_FashionMNIST60", 1, 0, 0.6, 0, 0, 0, short="CM60"),
        8: _mechanism("CIFAR10_Box30_FashionMNIST60", 1, 0.3, 0.6, 0, 0, 0, short="CB30M60"),
        9: _mechanism("CIFAR10_Box60_FashionMNIST90", 1, 0.6, 0.9, 0, 0, 0, short="CB60M90"),
        10: _mechanism("CIFAR10_Box90_FashionMNIST60", 1, 0.9, 0.6, 0, 0, 0, short="CB90M60"),
        # 11 to 13: one feature is taken away from all three.
        11: _mechanism("NoCIFAR10", 0, 1, 1, 0, 0, 0),
        12: _mechanism("RandomBox", 1, 1, 1, 0, 1, 0),
        13: _mechanism("RandomFashionMNIST", 1, 1, 1, 0, 0, 1),
    },
    "3DShapes": _SHAPES,
    "3DShapes-small": _SHAPES,
    # The content is the simple feature.
    "Slabs": {
        0: _mechanism("Simple", 1, 0, 0, 0, 0, 0, short="S"),
        1: _mechanism("Blocks4", 0, 1, 0, 0, 0, 0, short="4"),
        2: _mechanism("Blocks7", 0, 0, 1, 0, 0, 0, short="7"),
        3: _mechanism("Blocks4_Blocks7", 0, 1, 1, 0, 0, 0, short="47"),
        4: _mechanism("Simple_Blocks4", 1, 1, 0, 0, 0, 0, short="S4"),
        5: _mechanism("Simple_Blocks7", 1, 0, 1, 0, 0, 0, short="S7"),
        6: _mechanism("Simple_Blocks4_Blocks7", 1, 1, 1, 0, 0, 0, short="S47"),
        7: _mechanism("Simple_HalfBlocks", 1, 0.5, 0.5, 0, 0, 0, short="Sh"),
    },
}

# The counterfactual sets on which a data set's networks are tested unless an entry names others.
COUNTERFACTUALS = {
    "FashionMNIST-mini": (0, 1, 2, 3),
    "MNIST": (0, 1, 2, 3),
    "FashionMNIST": (0, 1, 2, 3),
    "CIFAR10": (0, 1, 2, 3, 4, 5, 6, 7),
    "CIFAR100": (0, 1, 2, 3),
    "Dominoes": (0, 1, 2, 3, 4, 5, 6),
    "3DShapes": (0, 1, 2, 3, 4, 5, 6),
    "3DShapes-small": (0, 1, 2, 3, 4, 5, 6),
    "Slabs": (0, 1, 2, 3, 6),
}

# What is computed of finished runs: `python -m analysis NAME CONFIG`. `cues`: of teachers and students on counterfactual sets; else of systems on compositions.
ANALYSES = {
    0: Choice("invariance"),
    1: Choice("deephys"),
    2: Choice("saliency", cues=True),
    3: Choice("features", cues=True),
    # `layers`: of the layers of one network, as a table; an entry names these under `analyses`.
    4: Choice("saturation", layers=True),
    5: Choice("projection", layers=True),
    6: Choice("latents", layers=True),
    7: Choice("probes", layers=True),
    8: Choice("receptive_field", layers=True),
    9: Choice("cost", layers=True),
    10: Choice("metrics", layers=True),
    11: Choice("clusterability", layers=True),
    12: Choice("lesions", layers=True),
    13: Choice("coactivation", layers=True),
}
