"""What a data set holds: three splits of images, labels and ids; and the checksum that its content is known by, pinned where there is one publication."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.mapped import forget

SPLITS = ("train", "valid", "test")
ARRAYS = ("images", "labels", "ids")
HASHED = 8192  # rows at once

# `content_checksum` of the decoded and split arrays; every source must yield these.
CONTENT_SHA256 = {
    "FashionMNIST-mini": "a1c2e0fa27c91279fb37fa973aa8da26fb13cd404f9f0352343b1ba0559719c5",
    "MNIST": "af094c2b2c83c2da827ff6f3a2e6fe0bba9512ae829151048888725fab832e4c",
    "FashionMNIST": "8f96f474598b5e5a98108508491904f00ad534b0e613fc22f378d0e854b49c0e",
    "CIFAR10": "af43a44fcb92d6cefed0b87e912d6bb7fd5bad42c8c94e5a682fa8bf5fdd27a6",
    "Dominoes": "687840410ffd413cf63c89679c697cb91b05096b294d21eed732c656127829ea",
    "3DShapes-small": "981cab23bd216c11d5306e568443920c8b28d4d61440909cd9db43c78ab283d6",
    "Slabs": "39a91ee1b3500572f6a84ad3e59360ec791c2ad30cb914b6a1d77e0b3d456bce",
    "ORL": "ef4ffaa60495bab9cec854b05a77a088e39295761d9acdcdcad100ba16e27b1b",
    "Polynomials": "bc05b834288ecd3105001813ceef0b07fd4475b376c613da7ed764e87252cc86",
    "Lines": "2bba595a9e6feebb3d0931c600759515648746d625e23f4a38fbbe300ac145fc",
    "Circles": "6dcc285a196bae7b0fccce29778d57be36d8f4729ef8bc75ceb126f50453c1a4",
    "Noise": "be7806b7607ce1956eb21960f7bb325f46fa5b1ced16ed8039ec073012bf3624",
    "Halves-MNIST": "daf6708a4be39b637317cfe3fc8a27c4e4ad2e5b076c797656f0c4270a30f4aa",
    "Halves-FashionMNIST": "4a797d387cc872099f43237b5a345a8c30b4f141bf00229a6e44dc4817c9a91f",
    "HalvesSame-MNIST": "8aa45e560a15950ed1425693c8dea8ab855fcb40be10c5e892c67ce785c8222e",
    "HalvesSame-FashionMNIST": "c64d95ee6828234480714580fecd31845844ab3b4532892a34f5febdf9a11632",
    "Stacked-MNIST": "3c893dd1a75599891be8f2960d9ee8ade2b6b6ad1996c077a2028a50b9efe0c1",
    "Stacked-FashionMNIST": "1c0c386905801fd89420c9d0ad03050a574fdd509a5322cfa84024cdad827ff4",
    "StackedSame-MNIST": "b2a985768795dd6672f08dc0b61663e24a1de60bc4d5ab96a922094e57599b00",
    "StackedSame-FashionMNIST": "9e50b72bf0ce5395ca52ef8c3df34f1995e74ba7f44fea922c8c3254e23da9fa",
    "Lines+MNIST": "d51bc4c60cd5b4c347636b68f65e71834b4507905bae4e6d449bf601fa6f6570",
    "MNIST+FashionMNIST": "6d0c31b67e4447f08e6599f63a2626b1707bb72709a16e2f8aa22318f37aa4e2",
    "Lines+MNIST-separated": "e5e0f4c7dcf2fab4c6a0947a567ff77784392fc3046c720ed7f8bea76fa41b98",
    "MNIST+FashionMNIST-separated": "50d84495f9c5eea97dcb95191bb1eae8c6b1da0e41d19f78722d56ff6a6ac522",
}


@dataclass(frozen=True)
class Split:
    """Images uint8 (N,C,H,W) (features float32 where the menu says so), labels int64 (N,) and ids int64 (N,).

    An id is the index of the image in the official part it came from: the train part for train and valid, the test part for test. Where there are
    no official parts it is the index among all images, class by class.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSet:
    """A data set in memory; ``checksum`` is the `content_checksum` of its splits."""

    name: str
    train: Split
    valid: Split
    test: Split
    checksum: str

    def split(self, name: str) -> Split:
        """The split called train, valid or test; any other name is a ValueError."""
        if name not in SPLITS:
            raise ValueError(f"split {name!r}; allowed: {', '.join(SPLITS)}")
        return getattr(self, name)


Splits = Mapping[str, Split]


def content_checksum(splits: Splits) -> str:
    """SHA-256 (hex) over the split's name, the array's name, type, shape and bytes, for every array of train, valid and test in this order."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for field in ARRAYS:
            array = getattr(splits[split], field)
            digest.update(f"{split}/{field} {array.dtype.str} {array.shape}\n".encode())
            for start in range(0, len(array), HASHED):
                digest.update(np.ascontiguousarray(array[start : start + HASHED]).reshape(-1).view(np.uint8).data)
                forget(array)
    return digest.hexdigest()
