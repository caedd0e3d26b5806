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


# Image shapes are (channels, height, width) as stored; networks always see three channels.
# `counts` are train / valid / test totals, () where they depend on the user's copy; `mean` and `std` are those of pixels in 0..1;
# `padding` is the random crop's.
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

# `blocks`: how many; block i takes level i, the last block is the linear classifier.
MODELS = {
    0: Choice("SmallNet", blocks=5, sizes=(28,)),
    1: Choice("EMNISTNet", blocks=6, sizes=(28,)),
    2: Choice("ResNet18-stem7-w64", blocks=10, sizes=(32,)),
    3: Choice("InceptionV3", blocks=17, sizes=(100, 112)),
}

# Drawn on clean training images, before any corruption, the same for every view of an image.
AUGMENTATIONS = {
    0: Choice("None"),
    1: Choice("CropFlip"),  # zero padding and a random crop back to size, then a horizontal flip with p = 0.5
}

# What is computed of finished systems: `python -m analysis NAME CONFIG`.
ANALYSES = {
    0: Choice("invariance"),
    1: Choice("deephys"),
}
