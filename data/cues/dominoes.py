"""Dominoes: FashionMNIST above CIFAR10 (Shah et al., NeurIPS 2020; Lubana et al., ICML 2023), with a box on the CIFAR10 half. The label is CIFAR10's."""

from collections.abc import Callable

import torch
from torch import Tensor

from data.cues.box import box_values, put_boxes
from data.cues.scene import ABSENT, Cues, Draws, Scene, cues_of
from data.mechanisms import Mechanism

HALF = 32
CLASSES = 10


@cues_of("Dominoes")
class Dominoes(Cues):
    """The content is the lower half. Cue 1 is the box, cue 2 the upper half: an image of FashionMNIST's class of the same number, or black.

    Which image of the class that is is drawn anew in every epoch of training, so that no pair can be learnt by heart.
    """

    def compose(self, mechanism: Mechanism, draws: Draws) -> Scene:
        labels, n = self.labels, len(self.labels)
        box = box_values(labels, mechanism.cue_1, mechanism.random_cue_1, draws, "box")
        upper = draws.below("FashionMNIST", n, n) if mechanism.random_cue_2 else draws.same_class("FashionMNIST", labels)
        upper = torch.where(draws.carriers("carries FashionMNIST", labels, mechanism.cue_2), upper, ABSENT)
        return Scene(labels, self.contents(mechanism, draws), box, upper)

    def render(self, scene: Scene, augment: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        lower = self.images[scene.content.clamp(min=0), :, HALF:]
        lower = lower if augment is None else augment(lower)
        lower = lower * (scene.content != ABSENT).view(-1, 1, 1, 1).to(lower.dtype)
        upper = self.images[scene.cue_2.clamp(min=0), :, :HALF] * (scene.cue_2 != ABSENT).view(-1, 1, 1, 1).to(lower.dtype)
        images = torch.cat([upper, lower], dim=2)
        return put_boxes(images, scene.cue_1, torch.full_like(scene.cue_1, ABSENT), CLASSES, top=HALF)
