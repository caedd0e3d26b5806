"""The analyses by their names on the menu. A new one is a line here, a line in `info_dicts.ANALYSES` and a file beside."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from analysis import activations, deephys, features, saliency
from analysis.walk import Data, System
from data.cue_batches import CounterfactualSet
from models.networks import Network

# (systems, data, an output for each system, device, called after every composition of a chunk of images)
Run = Callable[[Sequence[System], Data, Sequence[Path], torch.device, Callable[[], object]], None]


@dataclass(frozen=True)
class Analysis:
    """What an analysis runs, and what its output in `analyses/<name>/` of a run directory is called: the evaluation's key and `suffix`.

    An output appears whole or not at all, so one that is there is finished. `singles`: it looks at clean images and single corruptions alone.
    """

    run: Run
    suffix: str = ""
    singles: bool = False


# (student and teacher, or one network, by name; counterfactual sets by name; data set; a folder)
RunUnderCues = Callable[[Mapping[str, Network], Mapping[str, CounterfactualSet], str, Path], None]


@dataclass(frozen=True)
class CueAnalysis:
    """An analysis of a teacher, or of a student beside its teacher, and on how many images of each set unless the command says otherwise."""

    run: RunUnderCues
    images: int


UNDER_CUES: dict[str, CueAnalysis] = {
    "saliency": CueAnalysis(saliency.run, 10),
    "features": CueAnalysis(features.run, 1000),
}
ANALYSES: dict[str, Analysis] = {
    "invariance": Analysis(activations.collect, ".h5"),
    "deephys": Analysis(deephys.export, singles=True),
}
