"""What a frozen network makes of the training images below a module: computed once where no epoch changes it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from data.batches import Batch, Batches, spread
from data.corruptions import draws
from train import interrupt

# Features of the training images are kept up to this size; views beyond it are made again in every epoch.
KEEP_BYTES = 2**30
PIECE = 256  # images


@dataclass(frozen=True)
class PrefixedBatch(Batch):
    """A batch whose last rows are at a module's level already, as `features` (rows, ...); `images_nchw` are the rows before them."""

    features_n: Tensor


class PrefixedBatches:
    """`Batches` whose last views come as what the prefix of a frozen network, in eval mode, makes of them, as far as that is the same in every epoch.

    It is where images are not augmented and the corruption draws nothing, and it is kept where it fits into KEEP_BYTES. Pieces have a fixed size, so a
    training that goes on from a checkpoint meets the same bits.
    """

    def __init__(self, batches: Batches, prefix: Callable[[Tensor], Tensor] | None):
        self.batches = batches
        self.begin(prefix)

    def begin(self, prefix: Callable[[Tensor], Tensor] | None) -> None:
        """Forgets what is kept; from here on with another prefix, or none."""
        self._prefix = prefix
        self._training: list[Tensor] | None = None
        self._validation: list[PrefixedBatch] | None = None

    def steps(self) -> int:
        """Batches of an epoch."""
        return self.batches.steps()

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The training batches of an epoch from number `first` on."""
        if self._training is None:
            self._training = self._keep()
        kept, base = self._training, self.batches
        if not kept:
            yield from base.epoch(epoch, first)
            return
        live = base.views[: len(base.views) - len(kept)]
        for chosen in base.order(epoch, first):
            images = base.network_inputs(chosen, epoch, live) if live else base.train.images[:0]
            labels = base.train.labels[chosen].repeat(len(base.views))
            # Into one tensor at once: features of a batch are tens of megabytes.
            ready = kept[0].new_empty(len(kept), len(chosen), *kept[0].shape[1:])
            for features, place in zip(kept, ready):
                torch.index_select(features, 0, chosen, out=place)
            yield PrefixedBatch(images, labels, len(base.views), ready.flatten(0, 1))

    @torch.no_grad()
    def validation(self) -> Iterator[Batch]:
        """The validation batches, whose pixels are always the same."""
        if self._prefix is None:
            yield from self.batches.validation()
            return
        if self._validation is not None:
            yield from self._validation
            return
        made: list[PrefixedBatch] = []
        for batch in self.batches.validation():
            made.append(PrefixedBatch(batch.images_nchw[:0], batch.labels_n, batch.num_views, self._prefix(batch.images_nchw)))
            yield made[-1]
        if sum(batch.features_n.nbytes for batch in made) <= KEEP_BYTES:
            self._validation = made

    @torch.no_grad()
    def _keep(self) -> list[Tensor]:
        """The features (images, ...) of the last views, of as many as are the same in every epoch and fit."""
        base, kept = self.batches, list[Tensor]()
        if self._prefix is None or base.padding is not None:
            return kept
        n, left = len(base.train.labels), KEEP_BYTES
        for view in reversed(base.views):
            one = self._prefix(base.network_inputs(torch.arange(1, device=base.device), 0, (view,)))
            left -= n * one.nbytes
            if draws(view) or left < 0:
                break
            features = one.new_empty(n, *one.shape[1:])
            for start, stop in spread(n, PIECE):
                chosen = torch.arange(start, stop, device=base.device)
                features[start:stop] = self._prefix(base.network_inputs(chosen, 0, (view,)))
                interrupt.stop_if_told("the features below a module, which are computed first; the same command goes on")
            kept.insert(0, features)
        return kept
