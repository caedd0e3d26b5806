"""Analyses of the layers of a finished run: the network, its images, and a folder in the run directory where the results appear."""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from analysis.options import OnImages, Options
from analysis.pictures import Corrupted, Cued, Pictures
from analysis.seen import Seen
from analysis.table import OPTIONS, TABLE, Row, to_csv
from data import datasets
from data.compositions import IDENTITY, compositions
from data.keys import derive
from errors import RunError
from models.networks import Network
from train import interrupt
from train.analysed import analysis_folder
from train.checkpoint import UNPRUNED
from train.cue_experiments import UnderCues
from train.entry import Experiment
from train.loop import choose_device
from train.method import PlainSystem, System, fresh_network, load_network, method_class
from train.penalties import make_clusterable
from train.run import locked, read_json, write_atomically


def run_analyses(experiment: Experiment, wanted: Mapping[str, Options], quiet: bool = True) -> None:
    """Runs analyses of a finished run, one after the other; those whose results are there are left alone.

    RunError where a folder cannot be written or memory is short; Interrupted where the process was told to stop.
    """
    if not wanted:
        return
    with locked(experiment.directory / "analyses"):
        for name, options in wanted.items():
            run_analysis(experiment, name, options, quiet)


def of_layers(name: str) -> Callable[[Seen, Any, Path], list[Row]]:
    """The analysis of a menu name, `run` in `analysis/<name>.py`: of what is seen, its options and a folder of its own that may hold what a killed one had finished, the rows of the table.

    It is imported when it is asked for: the libraries of some take longer than torch.
    """
    run: Callable[[Seen, Any, Path], list[Row]] = importlib.import_module(f"analysis.{name}").run
    return run


def run_analysis(experiment: Experiment, name: str, options: Options, quiet: bool) -> None:
    folder = analysis_folder(experiment, name, options)
    if (folder / TABLE).exists():
        return
    title = f"{name} of {experiment.name}"
    unfinished = folder.with_name(f"{folder.name}.parts")
    with tqdm(unit="chunk", desc=title, disable=quiet or not sys.stderr.isatty()) as bar:

        def tick() -> None:
            bar.update()
            interrupt.stop_if_told(f"{title}; the same command goes on with it")

        try:
            unfinished.mkdir(parents=True, exist_ok=True)
            rows = of_layers(name)(see(experiment, options, tick), options, unfinished)
            write_atomically(unfinished / OPTIONS, options.model_dump_json(indent=1).encode())
            write_atomically(unfinished / TABLE, to_csv(rows))
            unfinished.rename(folder)
        except OSError as error:
            raise RunError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from None
        except torch.OutOfMemoryError as error:
            raise RunError(f"{title}: out of GPU memory ({str(error).splitlines()[0]}); fewer images need less") from None


def see(experiment: Experiment, options: Options, tick: Any = lambda: None) -> Seen:
    """What analyses see of a finished run."""
    dataset, device = datasets.load(experiment.dataset), choose_device(experiment.device)
    facts, system, classifier = experiment.choice("dataset"), load_system(experiment, device), classifier_of(experiment)
    levels = getattr(system, "levels", {})
    return Seen(
        experiment.name,
        system,
        lambda: PlainSystem(untrained(classifier).to(device).eval().requires_grad_(False)).eval(),
        pictures_of(experiment, options, dataset, device),
        tuple(facts.shape),
        facts.classes,
        device,
        (read_json(experiment.directory / "done.json") or {}).get("image_steps", 0),
        (lambda: load_network(classifier, device, UNPRUNED)) if getattr(classifier, "pruning", None) else None,
        {name: (part, levels[name]) for name, part in getattr(system, "modules_of", {}).items()},
        tick,
    )


def load_system(experiment: Experiment, device: torch.device) -> System:
    """The finished system of an experiment, or the network of a teacher or student as one."""
    if isinstance(experiment, UnderCues):
        return PlainSystem(load_network(experiment, device)).eval()
    return method_class(experiment.method).system(experiment, device)


def classifier_of(experiment: Experiment) -> Experiment:
    """The experiment that trained the network whose layers are looked at: of a system with parts its backbone or classifier."""
    return getattr(experiment, "backbone", None) or getattr(experiment, "classifier", None) or experiment


def untrained(experiment: Experiment) -> Network:
    """The network as it was before its training: the same initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(derive("initialisation", experiment.seed, "train"))
        network = fresh_network(experiment)
    start = getattr(experiment, "clusterable_start", None)
    if start is not None:
        make_clusterable(network, start, experiment.seed, experiment.choice("dataset").classes)
    return network


def pictures_of(experiment: Experiment, options: Options, dataset: datasets.DataSet, device: torch.device) -> Pictures:
    """The images of an experiment under the conditions that an analysis asks for."""
    if isinstance(experiment, UnderCues):
        return Cued(dataset, experiment.tested_on, experiment.own_set, device)
    spec = compositions(options.compositions) if isinstance(options, OnImages) else [IDENTITY]
    return Corrupted(dataset, tuple(spec), experiment.testing.severities, device)
