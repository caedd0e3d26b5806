"""Networks and what analyses of layers see of them, without a run: real images, few of them, and a system around any network."""

import dataclasses
from collections import OrderedDict
from functools import lru_cache

import torch
from torch import nn

from analysis.pictures import Corrupted
from analysis.seen import Seen
from data import datasets
from models.networks import Network
from tests.train.runs import CPU
from train.method import PlainSystem


@lru_cache(maxsize=1)
def few_images(train=6, test=4):
    """FashionMNIST-mini with so many images of every class."""
    full = datasets.load("FashionMNIST-mini")

    def first(split, each):
        chosen = datasets.class_balanced(split, 10 * each)
        return datasets.Split(split.images[chosen], split.labels[chosen], split.ids[chosen])

    return dataclasses.replace(full, train=first(full.train, train), valid=first(full.valid, test), test=first(full.test, test))


def small_convolutions(seed=0, stride=2, groups=1, bias=True):
    """A network with two convolutions, a batch norm, and two linear layers: named blocks.0.conv, blocks.1.conv, blocks.2.linear, blocks.3."""
    torch.manual_seed(seed)
    blocks = [
        nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 6, 5, 4, 1, bias=bias), act=nn.ReLU())),
        nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(6, 8, 3, stride, 1, groups=groups, bias=bias), norm=nn.BatchNorm2d(8), drop=nn.Dropout(0.5), act=nn.Tanh()
            )
        ),
        nn.Sequential(OrderedDict(flat=nn.Flatten(), linear=nn.LazyLinear(12, bias=bias), act=nn.ReLU())),
        nn.Linear(12, 10),
    ]
    network = Network(blocks)
    network.train()(torch.randn(8, 3, 28, 28))  # its batch norm shall have seen something
    return network.eval().requires_grad_(False)


def seen(network, compositions=(("Identity",),), tick=lambda: None, untrained=None):
    """What an analysis sees of a network."""
    dataset = few_images()
    return Seen(
        "a network", PlainSystem(network).eval(), lambda: PlainSystem(untrained or network).eval(),
        Corrupted(dataset, compositions, {}, CPU), (3, 28, 28), 10, CPU, tick=tick,
    )  # fmt: skip


def inputs(found, split="test", condition="Identity", images=None):
    """The network inputs (N, 3, H, W) of all images."""
    return torch.cat(list(found.pictures.batches(split, condition, images)))
