"""Slabs (Shah et al., NeurIPS 2020): three features that each tell the class; one that does not is taken from a random row."""

from collections.abc import Callable

import torch
from torch import Tensor

from data.cues.scene import Cues, Draws, Scene, cues_of
from data.mechanisms import Mechanism


@cues_of("Slabs")
class Slabs(Cues):
    """The content is the simple feature, cue 1 the one of four blocks, cue 2 the one of seven. None can be absent: without its information it is random."""

    def compose(self, mechanism: Mechanism, draws: Draws) -> Scene:
        n = len(self.labels)
        columns = []
        for what, fraction, random in zip(("simple", "4 blocks", "7 blocks"), mechanism[:3], mechanism[3:]):
            told = draws.carriers(f"told by {what}", self.labels, 0.0 if random else fraction)
            columns.append(torch.where(told, torch.arange(n), draws.below(what, n, n)))
        return Scene(self.labels, *columns)

    def render(self, scene: Scene, augment: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        features = torch.stack([self.images[rows, column] for column, rows in enumerate((scene.content, scene.cue_1, scene.cue_2))], dim=1)
        return features if augment is None else augment(features)
