"""Which analyses of an experiment's layers are finished, and where they lie. Loads without torch.

analyses/<analysis>/<key of its options>/     table.csv, options.json, and whatever else the analysis writes; appears whole
analyses/<analysis>/<key>.parts/              what is finished so far
analyses/saturation/along/epoch-0001.npz      the spectra of an epoch, where saturation is followed along the training
"""

from pathlib import Path

import info_dicts
from analysis.options import OPTIONS, Options
from analysis.table import TABLE
from data.compositions import abbreviate
from train.entry import Experiment


def analysis_folder(experiment: Experiment, name: str, options: Options) -> Path:
    """The folder of an analysis with these options; severities that are not the published ones are part of its name."""
    severities = (f"{abbreviate([corruption])}{severity}" for corruption, severity in experiment.testing.severities.items())
    return experiment.directory / "analyses" / name / "-".join([options.key, *severities])


def missing_analyses(experiment: Experiment) -> dict[str, Options]:
    """The analyses that an experiment's entry asks for and that are not finished."""
    return {
        name: options for name, options in experiment.analyses.items() if not (analysis_folder(experiment, name, options) / TABLE).exists()
    }


def finished_analyses(directory: Path, asked: dict[str, Path]) -> dict[str, Path]:
    """The finished analyses of a run directory, by name in menu order, one of each: the one that is asked for, else the newest."""
    found: dict[str, Path] = {}
    for name in (str(choice) for choice in info_dicts.ANALYSES.values() if choice in OPTIONS):
        if name in asked and (asked[name] / TABLE).exists():
            found[name] = asked[name]
            continue
        tables = sorted((directory / "analyses" / name).glob(f"*/{TABLE}"), key=lambda path: (path.stat().st_mtime_ns, path.parent.name))
        if tables:
            found[name] = tables[-1].parent
    return found


def analyses_of(experiment: Experiment, directory: Path | None = None) -> dict[str, Path]:
    """The same of an experiment, whose run may lie in another directory."""
    asked = {name: analysis_folder(experiment, name, options) for name, options in experiment.analyses.items()}
    if directory is not None:
        asked = {name: directory / path.relative_to(experiment.directory) for name, path in asked.items()}
    return finished_analyses(directory or experiment.directory, asked)
