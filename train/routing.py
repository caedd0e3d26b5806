"""Routing: which parts a system with a part for each corruption applies to an image, and in which order."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data.compositions import ELEMENTALS
from data.keys import derive
from train.router import load_router

Routes = list[tuple[Tensor | None, tuple[str, ...]]]


@dataclass(frozen=True)
class Routing:
    """What a system goes by at test time, as its experiment's fields of these names say.

    `told`: the corruptions of the composition, in its order, the reverse or a random order. `wrong_order`: the same in another order than theirs,
    where there is one. `random`: as many, drawn at random. `router`: what that network sees in the image itself, in menu order. Draws are made
    once for each composition, keyed by the seed. A corruption that has no part is passed by.
    """

    corruptions: tuple[str, ...] = ELEMENTALS
    order: str = "application"
    routing: str = "told"
    seed: int = 0
    router: nn.Module | None = None

    @classmethod
    def of(cls, experiment: Any, device: torch.device) -> "Routing":
        """The routing of a system's experiment."""
        router = load_router(experiment.router, device) if experiment.router else None
        return cls(experiment.corruptions, experiment.order, experiment.routing, experiment.seed, router)

    def believed(self, composition: Sequence[str]) -> tuple[str, ...]:
        """The corruptions to undo, in order, where that depends on the composition alone."""
        names = [name for name in composition if name in self.corruptions]
        draw = random.Random(derive("routing", self.routing, self.seed, list(composition)))
        if self.routing == "random":
            return tuple(draw.sample(self.corruptions, len(names)))
        if self.routing == "wrong_order" and len(names) > 1:
            true = list(names)
            while names == true:
                draw.shuffle(names)
        elif self.order == "reverse":
            names.reverse()
        elif self.order == "random":
            random.Random(derive("module order", self.seed, list(composition))).shuffle(names)
        return tuple(names)

    def routes(self, images_nchw: Tensor, composition: Sequence[str]) -> Routes:
        """Rows of the images and the corruptions to undo there, in order; rows None are all."""
        if self.router is None:
            return [(None, self.believed(composition))]
        seen, which = (self.router(images_nchw) > 0).unique(dim=0, return_inverse=True)
        return [
            ((which == number).nonzero().squeeze(1), tuple(name for name, there in zip(self.corruptions, row) if there))
            for number, row in enumerate(seen.tolist())
        ]

    def follow(self, apply: Callable[[Tensor, tuple[str, ...]], Tensor], images_nchw: Tensor, composition: Sequence[str]) -> Tensor:
        """`apply(images, names)` for the images of every route, put together in the order of the images."""
        routes = self.routes(images_nchw, composition)
        if len(routes) == 1:
            return apply(images_nchw, routes[0][1])
        order = torch.cat([rows for rows, _ in routes if rows is not None])
        results = torch.cat([apply(images_nchw[rows], names) for rows, names in routes])
        return torch.empty_like(results).index_copy_(0, order, results)
