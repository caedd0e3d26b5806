"""Results as one tidy table: one row per value, whatever they come from.

python -m plots.results configs/demo.yaml > results.csv              the runs of a list
python -m plots.results configs/demo.yaml --epochs=1 > results.csv   with the overrides that they were run with
python -m plots.results runs > results.csv                           every run in a folder, or one run directory
python -m plots.results configs/*.yaml > results.csv                 several lists or folders; equal runs once
python -m plots.results ENTITY/PROJECT > results.csv                 a W&B project; --group NAME, --tag NAME: some of its runs
python -m plots.results ENTITY/PROJECT/SWEEP > results.csv           the trials of a W&B sweep
python -m plots.results wandb-files > results.csv                    W&B's own files of runs that were recorded offline
python -m plots.results configs/demo.yaml --from ENTITY/PROJECT      the runs of a list, read from there (or from a folder)
"""

import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from errors import Arguments, InputError, report_errors
from plots.local import find_in_folder, find_in_list, run_directories
from plots.logged import Wanted, find_in_logged
from plots.offline import read_files, wandb_files
from plots.records import Found, Record
from plots.table import tabulate
from train.lists import read, read_overrides

NAMED = 5  # missing runs: of more, the others are counted
LISTS = (".yaml", ".yml", ".json")
ALL = Wanted()


@dataclass(frozen=True)
class Sources:
    """Where results are to be read: lists, folders and W&B projects, and what belongs to them.

    Lists take `overrides`; `origin` (a folder or a W&B project) is where their runs are read instead of the run directories. `wanted` chooses
    among W&B's runs.
    """

    named: tuple[str, ...]
    overrides: Mapping[str, Any]
    origin: str = ""
    wanted: Wanted = ALL


@dataclass(frozen=True)
class Results:
    """The finished runs of a source, or of several, and what is missing there, in words.

    `smaller` are evaluations of a folder's runs that give way to larger ones; `asked` has a key for every run of the source.
    """

    source: str
    runs: tuple[Record, ...]
    missing: tuple[str, ...]
    smaller: frozenset[Path] = frozenset()
    asked: frozenset[str] = frozenset()

    @cached_property
    def table(self) -> pd.DataFrame:
        """The tidy table of all runs."""
        return tabulate(self.runs)

    @property
    def gaps(self) -> str:
        """What is missing, by name as far as a line holds it, and how many evaluations count for nothing; empty where nothing is missing."""
        named = [*self.missing[:NAMED], *([f"and {len(self.missing) - NAMED:,} more"] if len(self.missing) > NAMED else [])]
        n = len(self.smaller)
        return "; ".join([*named, *([f"{n:,} smaller evaluation{'' if n == 1 else 's'} left out"] if n else [])])

    @property
    def note(self) -> str:
        """The gaps with their source, in one line; empty where there are none."""
        return f"{self.source}: {'left out: ' if self.missing else ''}{self.gaps}" if self.gaps else ""

    def unfinished(self, figure: str) -> InputError:
        """The error of a figure that needs evaluations, where there are none."""
        n = len(self.asked)
        return InputError(
            f"{figure}: no finished run: of {n:,} run{'' if n == 1 else 's'} in {self.source} none is trained and evaluated; run the list first with: "
            "python -m train CONFIG, or only its evaluation with: python -m train.evaluate CONFIG (a run with overrides is another experiment: repeat them here, e.g. --epochs=1, or plot runs/)"
        )


def load(*sources: str | Path, overrides: Mapping[str, Any] | None = None, origin: str = "", wanted: Wanted = ALL) -> pd.DataFrame:
    """The results of sources as one table with the columns of COLUMNS, empty (NA or '') where a column means nothing.

    A source is a YAML list, whose entries take `overrides`; a run directory, or a folder of run directories; W&B's offline files, or a folder of
    them; or a W&B project or sweep (ENTITY/PROJECT[/SWEEP]), of which `wanted` chooses. The runs of lists are read from `origin`, where one is
    named. The rows are the same wherever they are read. Accuracies are fractions. Rows per epoch: loss and accuracy (split train and valid) and lr;
    those of a level search have the level as `layer` and metrics that start with `search_`. Rows per composition: accuracy and loss. Rows per run:
    trained_parameters, total_parameters, image_steps, search_trials, best_epoch, train_seconds; a system that trains nothing itself has the sums of
    image_steps, search_trials and train_seconds over its distinct prerequisites. What is not finished, and how many smaller evaluations of a
    folder's runs are left out, stands on stderr in one line. InputError where a source cannot be read, RunError where a server fails for good.
    """
    results = find(*sources, overrides=overrides, origin=origin, wanted=wanted)
    if results.note:
        print(results.note, file=sys.stderr)
    return results.table


def find(*sources: str | Path, overrides: Mapping[str, Any] | None = None, origin: str = "", wanted: Wanted = ALL) -> Results:
    """The finished runs of sources (see `load`), equal ones once.

    A run that several sources evaluate differently has all of these evaluations, but one for each split and severities: the last source's.
    """
    named = tuple(map(str, sources))
    if wanted != ALL and not any(is_project(source) for source in (*named, origin)):
        raise InputError(f"{', '.join(named)}: --group and --tag choose among the runs of a W&B project (ENTITY/PROJECT)")
    pool = _find_in(origin, {}, wanted) if origin else None
    found = [_find_in(source, overrides or {}, wanted, pool) for source in named]
    runs: dict[str, Record] = {}
    for record in (record for own in found for record in own.runs):
        key = record.experiment.hash
        runs[key] = _join(runs[key], record) if key in runs else record
    missing = dict.fromkeys(words for own in found for words in own.missing)
    taken = {tested.path for record in runs.values() for tested in record.tested}
    return Results(
        ", ".join(own.source for own in found),
        tuple(runs.values()),
        tuple(missing),
        frozenset().union(*(own.smaller for own in found)) - taken,
        frozenset().union(*(own.asked for own in found)),
    )


def _join(first: Record, second: Record) -> Record:
    """One record of the same run from two sources; what lies in a run directory is taken from there."""
    last = {(tested.split, str(tested.severities)): tested for tested in first.tested + second.tested}
    facts, epochs = {**second.facts, **first.facts}, first.epochs or second.epochs
    analyses = {**second.analyses, **first.analyses}
    return Record(first.experiment, epochs, facts, tuple(last.values()), first.directory or second.directory, analyses)


def is_project(source: str) -> bool:
    """Whether a word names a W&B project or sweep (ENTITY/PROJECT[/SWEEP]), not a file or a folder."""
    words = source.split("/")
    return len(words) in (2, 3) and all(words) and words[0] not in (".", "..") and not source.endswith(LISTS) and not Path(source).exists()


def _find_in(source: str, overrides: Mapping[str, Any], wanted: Wanted, pool: Found | None = None) -> Found:
    if not is_project(source) and not Path(source).is_dir() and not wandb_files(Path(source)):
        return find_in_list(Path(source), overrides) if pool is None else _take(Path(source), overrides, pool)
    if overrides or pool:
        raise InputError(
            f"{source}: {'overrides go' if overrides else '--from goes'} with a list of experiments, not with a folder of runs or W&B's"
        )
    if is_project(source):
        # Only here, since nothing else waits for a client.
        from plots.pull import pull

        entity, project, *sweep = source.split("/")
        return find_in_logged(source, pull(f"{entity}/{project}", replace(wanted, sweep="".join(sweep))))
    path = Path(source)
    files = [] if run_directories(path) else wandb_files(path)
    return find_in_logged(source, read_files(files)) if files else find_in_folder(path)


def _take(path: Path, overrides: Mapping[str, Any], pool: Found) -> Found:
    """The runs of a list, as another source has them; each that is not there, or not evaluated as the list says, is named."""
    there = {record.experiment.hash: record for record in pool.runs}
    asked = {entry.experiment.hash: entry.experiment for entry in read(path, overrides)}
    runs, missing = [], []
    for key, experiment in asked.items():
        if key not in there:
            missing.append(f"{experiment.name} (not in {pool.source}, or not finished there)")
            continue
        asked_for = experiment.testing
        tested = tuple(own for own in there[key].tested if own.answers(asked_for, experiment.test_images))
        if experiment.is_system and not tested:
            missing.append(f"{experiment.name} (evaluation {asked_for.key} missing in {pool.source})")
        runs.append(replace(there[key], experiment=experiment, tested=tested))
    return Found(f"{path} from {pool.source}", tuple(runs), tuple(missing), asked=frozenset(asked))


def write_stdout(text: str) -> None:
    """Prints text; a reader who has gone (`| head`) is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would raise again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def add_sources(arguments: Arguments) -> None:
    """The sources of a command line, which `read_sources` reads."""
    arguments.add_argument(
        "source", nargs="+", help="YAML lists, run directories, folders of them, W&B files, ENTITY/PROJECT or ENTITY/PROJECT/SWEEP"
    )
    arguments.add_argument(
        "--from", dest="origin", default="", metavar="SOURCE", help="where the runs of lists are read: W&B's ENTITY/PROJECT, or a folder"
    )
    arguments.add_argument("--group", default="", metavar="NAME", help="of a W&B project, the runs of this group")
    arguments.add_argument(
        "--tag", action="append", default=[], metavar="NAME", help="of a W&B project, the runs with this tag (with all, if several)"
    )


def read_sources(options: Namespace, rest: Sequence[str]) -> Sources:
    """All sources of a command line, also those that follow an option (argparse leaves them in `rest`), with the overrides among them."""
    # argparse takes an override whose value has a space for a source.
    words = [*options.source, *rest]
    overrides = read_overrides(word for word in words if word.startswith("-"))
    named = tuple(word for word in words if not word.startswith("-"))
    return Sources(named, overrides, options.origin, Wanted(group=options.group, tags=tuple(options.tag)))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = Arguments("python -m plots.results", description=__doc__)
    add_sources(arguments)
    options, rest = arguments.parse_known_args(argv)

    def write() -> None:
        sources = read_sources(options, rest)
        table = load(*sources.named, overrides=sources.overrides, origin=sources.origin, wanted=sources.wanted)
        write_stdout(table.to_csv(index=False))

    return report_errors(write)


if __name__ == "__main__":
    sys.exit(main())
