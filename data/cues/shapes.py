"""3D Shapes (Burgess and Kim 2018): the class is shape and half of the object's hues; floor hue and scale are cues that every image has.

A mechanism chooses among the images: those whose floor hue (scale) has the number of the class, and as many others as its fraction leaves room for.
"""

from collections.abc import Callable

import torch
from torch import Tensor

import info_dicts
from data.cues.scene import ABSENT, Cues, Draws, Scene, cues_of
from data.mechanisms import Mechanism
from data.shapes import factors_of

FLOOR, SCALE = 0, 3
CLASSES = 8


@cues_of("3DShapes", "3DShapes-small")
class Shapes(Cues):
    """Cue 1 is the floor's hue, cue 2 the scale. Where the content is drawn at random, so are the labels, and only the cues follow them.

    A cue of fraction 0, or one that is drawn at random, is independent of the class: no image is left out for it. Draws last for all epochs.
    """

    def compose(self, mechanism: Mechanism, draws: Draws) -> Scene:
        sizes = next(choice for choice in info_dicts.DATASETS.values() if choice == self.dataset).factors
        factors = torch.from_numpy(factors_of(self.ids.numpy(), sizes)).long()
        n = len(self.labels)
        drawn = draws.below("label", CLASSES, n, fixed=True)
        told = draws.carriers("has content", self.labels, mechanism.content) & (not mechanism.random_content)
        labels = torch.where(told, self.labels, drawn)
        keep = torch.ones(n, dtype=torch.bool)
        for what, column, fraction, random in (
            ("floor", FLOOR, mechanism.cue_1, mechanism.random_cue_1),
            ("scale", SCALE, mechanism.cue_2, mechanism.random_cue_2),
        ):
            if fraction and not random:
                keep &= matching(factors[:, column] == labels, fraction, draws.order(what, n))
        chosen = keep.nonzero().squeeze(1)
        absent = torch.full_like(chosen, ABSENT)
        return Scene(labels[chosen], chosen, absent, absent)

    def render(self, scene: Scene, augment: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return self.gather(scene.content, augment)


def matching(match_n: Tensor, fraction: float, order_n: Tensor) -> Tensor:
    """Which images to keep, bool (n,), so that this fraction of them match: all that do, and the first others by `order`, as many as it takes."""
    others = order_n[~match_n[order_n]]
    n = int(match_n.sum() * (1 - fraction) / fraction + 1e-9)
    return match_n.scatter(0, others[:n], True)
