"""Analyses of finished systems, on the images and compositions of their evaluation.

    python -m analysis invariance configs/demo.yaml                class means of penultimate units, for: python -m plots invariance
    python -m analysis invariance configs/demo.yaml --index 18     of one entry; --index 0-5,9 of several
    python -m analysis invariance configs/demo.yaml --images 200   on fewer images (the first of every class), kept beside the others
    python -m analysis invariance configs/demo.yaml --epochs=1     of a list with the overrides that it was run with
    python -m analysis deephys configs/demo.yaml --index 18        files for Deephys: images and units before and after every module
    python -m analysis saliency configs/distill_demo.yaml          of teachers and students: which pixels their answers move with, on counterfactual images
    python -m analysis features configs/distill_demo.yaml          their penultimate units, for: python -m plots tsne

Of the layers of any trained network, also named in an entry under `analyses` (options as there, here as --KEY=VALUE):

    python -m analysis saturation CONFIG --delta=[0.95,0.99]       the share of a layer's dimensions that its variance takes
    python -m analysis projection CONFIG                           accuracy with every layer projected on the eigenvectors of a delta
    python -m analysis probes CONFIG --train_images=5000           how well a linear classifier reads the class off every layer
    python -m analysis latents CONFIG --splits=test --images=1000  outputs of layers as HDF5
    python -m analysis receptive_field CONFIG                      how much of the image the units of a layer see
    python -m analysis cost CONFIG                                 operations and parameters
    python -m analysis metrics CONFIG --metrics=[mcc]              further scores on compositions
    python -m analysis clusterability CONFIG --shuffles=100        the normalised cut of its weights' clusters against shuffled weights
    python -m analysis lesions CONFIG --pair_labelings=50          accuracy without clusters of units
    python -m analysis coactivation CONFIG                         clusters of units by their activations

Results go to analyses/<analysis>/ in the run directories. What is there is not computed again; systems that share pixels are analysed in one pass.
"""

# An entry point, so above `train`, whose lists and runs it reads; the room's other files are below it.

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import difflib
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import info_dicts
from analysis.options import OPTIONS, read_options
from analysis.table import TABLE
from errors import Arguments, InputError, RunError, report_errors
from train import interrupt
from train.analysed import analysis_folder
from train.build import KINDS
from train.cue_experiments import Teacher, UnderCues
from train.entry import Experiment
from train.frozen import list_name
from train.lists import Entry, label, read, read_overrides
from train.needs import require_data
from train.run import finished, locked, state


def main(argv: Sequence[str] | None = None) -> int:
    arguments = Arguments("python -m analysis", description=__doc__)
    arguments.add_argument("analysis", choices=[str(name) for name in info_dicts.ANALYSES.values()], help="what to compute")
    arguments.add_argument("config", help="a YAML list of experiments")
    arguments.add_argument("--index", metavar="LIST", help="the entries to analyse: a number, or numbers and ranges (0-5,9)")
    arguments.add_argument(
        "--images", metavar="N", help="how many images, the first of every class (default: those of the evaluation; of layers all)"
    )
    options, rest = arguments.parse_known_args(argv)
    interrupt.listen()
    return report_errors(lambda: analyse(options.analysis, options.config, options.index, rest, options.images))


def analyse(analysis: str, config: str, indices: str | None, rest: Sequence[str], images: str | None = None) -> None:
    """Analyses the finished systems of a list and names those that are not finished; InputError where none is."""
    facts = next(choice for choice in info_dicts.ANALYSES.values() if choice == analysis).facts
    if facts.get("cues"):
        analyse_under_cues(analysis, config, indices, rest, images)
        return
    if facts.get("layers"):
        analyse_layers(analysis, config, indices, rest, images)
        return
    rest = [*rest, *([] if images is None else [f"--evaluation.images={images}"])]
    entries = choose_systems(config, read(config, read_overrides(rest), indices), chosen=indices is not None)
    groups: dict[tuple[str, str, int, str], list[Experiment]] = {}
    for experiment in choose_ready(config, entries, rest, "system"):
        key = (experiment.dataset, experiment.testing.key, experiment.test_images, experiment.device)
        groups.setdefault(key, []).append(experiment)
    for members in groups.values():
        with ExitStack() as stack:
            for experiment in members:
                stack.enter_context(locked(experiment.directory / "analyses"))
            analyse_group(analysis, members)


def choose_ready(config: str, entries: Sequence[Entry], rest: Sequence[str], kind: str) -> list[Experiment]:
    """The finished experiments of entries, each once, whose data is there; names the others. InputError where none is finished."""
    ready = [entry for entry in entries if finished(entry.experiment)]
    if not ready:
        raise InputError(f"{config}: no finished {kind} to analyse; train them with: {' '.join(['python -m train', config, *rest])}")
    for entry in entries:
        if entry not in ready:
            print(f"{label(entry)}: left out, it is {state(entry.experiment).name}")
    require_data(ready)
    return list({entry.experiment.hash: entry.experiment for entry in ready}.values())


def analyse_layers(analysis: str, config: str, indices: str | None, rest: Sequence[str], images: str | None) -> None:
    """Looks into the layers of the finished runs of a list and names those that are not finished; InputError where none is."""
    words = read_overrides([*rest, *([] if images is None else [f"--images={images}"])])
    known = OPTIONS[analysis].model_fields
    given = {key: value for key, value in words.items() if key in known}
    fields = {field for kind in KINDS.values() for field in kind.model_fields}
    for key in words:
        if key not in known and key.partition(".")[0] not in fields:
            near = difflib.get_close_matches(key, [*known, *fields], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{analysis}: {key}: unknown option{hint}; allowed: {', '.join(known) or 'none'}, and fields of the entries")
    if "along" in given:
        raise InputError(
            f"{analysis}: along: goes with the training; write it in the entry, before that: analyses: {{{analysis}: {{along: 1}}}}"
        )
    entries = read(config, {key: value for key, value in words.items() if key not in known}, indices)
    able = [entry for entry in entries if entry.experiment.analysable]
    if not able or (indices is not None and len(able) < len(entries)):
        other = next(entry for entry in entries if entry not in able)
        raise InputError(
            f"{config}: {label(other)} is a part, which classifies nothing by itself; analyses take systems, teachers and students"
        )
    wanted = {}
    for entry in able:
        own = entry.experiment.analyses.get(analysis)
        try:
            options = read_options(analysis, (own.model_dump(exclude_defaults=True) if own else {}) | given)
        except ValueError as error:
            raise InputError(f"{analysis}: {error}") from None
        wanted[entry.experiment.hash] = options
    ready = choose_ready(config, able, [word for word in rest if word[2:].partition("=")[0] not in known], "run")
    from train.runner import finish_analyses

    for experiment in ready:
        folder = analysis_folder(experiment, analysis, wanted[experiment.hash])
        there = (folder / TABLE).exists()
        if not there:
            finish_analyses(experiment, (list_name(config),), {analysis: wanted[experiment.hash]}, quiet=False)
        print(f"{experiment.name}: {'done already' if there else 'done'}, in {folder}")


def analyse_under_cues(analysis: str, config: str, indices: str | None, rest: Sequence[str], images: str | None) -> None:
    """Analyses the finished teachers and students of a list and names those that are not finished; InputError where none is."""
    if images is not None and not (images.isdigit() and int(images)):
        raise InputError(f"--images {images}: must be a whole number from 1")
    entries = read(config, read_overrides(rest), indices)
    able = [entry for entry in entries if isinstance(entry.experiment, UnderCues)]
    if not able or (indices is not None and len(able) < len(entries)):
        other = next(entry for entry in entries if entry not in able)
        raise InputError(f"{config}: {label(other)} is no teacher or student; {analysis} takes those")
    for experiment in choose_ready(config, able, rest, "run"):
        assert isinstance(experiment, UnderCues)
        with locked(experiment.directory / "analyses"):
            analyse_one_under_cues(analysis, experiment, images)


def analyse_one_under_cues(analysis: str, experiment: UnderCues, images: str | None) -> None:
    """Analyses one teacher or student on its counterfactual sets, and prints where the results are."""
    from analysis.analyses import UNDER_CUES
    from data import datasets
    from data.cue_batches import CounterfactualSet
    from train.loop import choose_device
    from train.method import load_network

    kind = UNDER_CUES[analysis]
    number = int(images) if images else kind.images
    folder = experiment.directory / "analyses" / analysis / f"test-{number}"
    there = folder.exists()
    if not there:
        dataset, device = datasets.load(experiment.dataset), choose_device(experiment.device)
        networks = {
            "teacher" if isinstance(part, Teacher) else "student": load_network(part, device)
            for part in (experiment, *experiment.requires())
        }
        sets = {name: CounterfactualSet(dataset, own, device, number) for name, own in experiment.tested_on.items()}
        remove_leftovers([folder.parent])
        unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        unfinished.mkdir(parents=True)
        kind.run(networks, sets, experiment.dataset, unfinished)
        unfinished.rename(folder)
    print(f"{experiment.name}: {'done already' if there else 'done'}, in {folder}")


def choose_systems(config: str, entries: Sequence[Entry], chosen: bool) -> list[Entry]:
    """The entries that are systems; InputError where one that was asked for by its index is a part."""
    for entry in entries:
        if chosen and not entry.experiment.is_system:
            raise InputError(f"{config}: {label(entry)} is a part, which classifies nothing by itself; analyses take systems")
    return [entry for entry in entries if entry.experiment.is_system]


def analyse_group(analysis: str, members: Sequence[Experiment]) -> None:
    """Analyses systems that share data set, evaluation and device, and prints where the results are."""
    # Only here, since a mistake on the command line shall not wait for torch.
    import torch
    from tqdm import tqdm

    from analysis.analyses import ANALYSES
    from analysis.walk import Data
    from data import datasets
    from data.compositions import compositions
    from train.evaluation import load_systems, select_images
    from train.loop import choose_device

    kind, first = ANALYSES[analysis], members[0]
    outputs = {e.hash: e.directory / "analyses" / analysis / f"{e.testing.key}{kind.suffix}" for e in members}
    todo = [experiment for experiment in members if not outputs[experiment.hash].exists()]
    if todo:
        remove_leftovers([outputs[experiment.hash].parent for experiment in todo])
        dataset, evaluation = datasets.load(first.dataset), first.testing
        positions, split = select_images(evaluation, dataset), dataset.split(evaluation.split)
        chosen = datasets.Split(split.images[positions], split.labels[positions], split.ids[positions])
        spec = tuple(names for names in compositions(evaluation.compositions) if len(names) == 1 or not kind.singles)
        if not spec:
            raise InputError(
                f"{analysis}: evaluation.compositions of {first.name} has neither Identity nor a single corruption; it takes those"
            )
        data = Data(first.dataset, evaluation.split, chosen, spec, evaluation.severities, dataset.checksum)
        device = choose_device(first.device)
        title = f"{analysis} of {len(todo)} system{'' if len(todo) == 1 else 's'} on {first.dataset}"
        with tqdm(total=len(spec) * len(data.chunks()), unit="composition", desc=title, disable=not sys.stderr.isatty()) as bar:

            def tick() -> None:
                bar.update()
                interrupt.stop_if_told(f"{title}; the same command starts it again")

            try:
                kind.run(load_systems(todo, device), data, [outputs[experiment.hash] for experiment in todo], device, tick)
            except torch.OutOfMemoryError as error:
                raise RunError(f"{title}: out of GPU memory ({str(error).splitlines()[0]}); --index analyses fewer at once") from None
    for experiment in members:
        print(f"{experiment.name}: {'done' if experiment in todo else 'done already'}, in {outputs[experiment.hash]}")


def remove_leftovers(folders: Sequence[Path]) -> None:
    """Takes away what a killed process was about to write; the lock says that no other one is at it."""
    for folder in folders:
        for left in folder.glob(".*.tmp"):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
