"""What is followed along a training: the saturation of layers, by the covariances of their outputs in the forward passes that are made anyway, and the n-cut of the weights."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from analysis.options import Clusterability, Saturation
from analysis.saturation import Covariances, measures, save_npz
from errors import RunError
from models.networks import Network
from train.entry import Experiment

SPLITS = ("train", "valid")


class Along:
    """What is followed of a network while it is trained; nothing unless the experiment's entry asks for `saturation: {along: n}` or `clusterability: {along: n}`.

    The n-cut is that at the end of every n-th epoch, and of the last one. For saturation, of the training images every n-th batch, while the weights move, in train mode; of the validation images all, in eval mode.
    """

    def __init__(self, experiment: Experiment):
        options = experiment.analyses.get("saturation")
        self.options = options if isinstance(options, Saturation) and options.along else None
        self.folder: Path = experiment.directory / "analyses" / "saturation" / "along"
        self.cut = None
        cut = experiment.analyses.get("clusterability")
        if isinstance(cut, Clusterability) and cut.along:
            # Not with every training: its libraries take 2 s.
            from analysis.clusterability import CutAlong

            self.cut = CutAlong(cut)
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self.covariances = (
            {} if self.options is None else {split: Covariances(self.options.conv, self.options.downsample) for split in SPLITS}
        )

    def training(self, network: nn.Module, batch: int) -> AbstractContextManager[None]:
        """A context for the training step of batch number `batch` of the epoch."""
        if self.options is None or batch % (self.options.along or 1) or not isinstance(network, Network):
            return nullcontext()
        return self.covariances["train"].watching(network)

    def validation(self, network: nn.Module) -> AbstractContextManager[None]:
        """A context for the validation, which begins anew where it was cut off."""
        if self.options is None or not isinstance(network, Network):
            return nullcontext()
        self.covariances["valid"] = Covariances(self.options.conv, self.options.downsample)
        return self.covariances["valid"].watching(network)

    def cut_of(self, network: nn.Module, epoch: int, last: bool, example: Callable[[], Tensor]) -> dict[str, Any]:
        """What the epoch's row says of the graph of weights; `example` makes an input for the network."""
        if self.cut is None or not (last or epoch % (self.cut.options.along or 1) == 0):
            return {}
        return {"graph": self.cut.measure(network, example)}

    def end_epoch(self, stage: str, epoch: int) -> dict[str, Any]:
        """What the epoch's row says of the layers, by split; the spectra go into a file. RunError where that cannot be written."""
        if self.options is None or not self.covariances["valid"].of:
            return {}
        spectra = {(split, layer): own.eigenvalues() for split, found in self.covariances.items() for layer, own in found.of.items()}
        path = self.folder / f"{'' if stage == 'train' else f'{stage}-'}epoch-{epoch:04d}.npz"
        try:
            save_npz(path, {f"{split}/{layer}": values.numpy() for (split, layer), values in spectra.items()})
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror or error}") from None
        found: dict[str, Any] = {split: {} for split in SPLITS}
        for (split, layer), values in spectra.items():
            found[split][layer] = measures(values, self.options)
        self.begin_epoch()
        return {"layers": found, "layers_every": self.options.along}

    def state(self) -> dict[str, Any]:
        """Of an epoch that is not at its end, what `restore` goes on with."""
        return {split: own.state() for split, own in self.covariances.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        for split, own in self.covariances.items():
            own.restore(state.get(split, {}))
