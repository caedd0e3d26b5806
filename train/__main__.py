"""Runs a list of experiments.

python -m train configs/demo.yaml                     the whole list with its prerequisites, in order
python -m train configs/demo.yaml --list              every entry and its state
python -m train configs/demo.yaml --index 3           one entry; --index 0-5,9 several
python -m train configs/demo.yaml --index 3 --lr=0.1  with a key changed (dotted for nested ones: --module.lr=0.1)
python -m train sync --help                           to W&B, what was recorded without it
"""

import os

# Threads that spin while they wait make small operations up to 100 times slower on a shared CPU; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from errors import Arguments, InputError, report_errors
from train import interrupt
from train.frozen import is_frozen, list_name
from train.lists import Entry, brief, label, plan, read, read_overrides
from train.needs import refuse_missing, require_data
from train.pool import default_workers
from train.run import remove_dead_lock
from train.slurm import available
from train.start import uncollected
from train.waves import full_states, queued_experiments, read_states, remainder


def parser(description: str | None = __doc__) -> Arguments:
    arguments = Arguments("python -m train", description=description)
    arguments.add_argument("config", help="a YAML list of experiments")
    arguments.add_argument("--index", metavar="LIST", help="the entries to run: a number, or numbers and ranges (0-5,9)")
    arguments.add_argument("--list", action="store_true", help="show every entry with its state, run nothing")
    arguments.add_argument("--dry-run", action="store_true", help="show what would run, in order")
    arguments.add_argument("--with-prerequisites", action="store_true", help="with --index: first run what the entries need")
    arguments.add_argument(
        "--workers", "--max-parallel", type=int, metavar="K", help="entries side by side (default: one per core; one on a GPU)"
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    begin = time.perf_counter()
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["sync"]:
        from train.sync import main as sync

        return sync(words[1:])
    interrupt.listen()
    options, rest = parser().parse_known_args(argv)
    return report_errors(lambda: run(options, rest, begin))


def run(options: argparse.Namespace, rest: list[str], begin: float) -> None:
    overrides = read_overrides(rest)
    chosen = read(options.config, overrides, options.index)
    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers {options.workers}: must be at least 1")
    if options.list:
        show(options.config, chosen, options.index, rest)
        return
    planned = plan(chosen)
    asked = {entry.experiment.hash for entry in chosen}
    if options.index is not None and not options.with_prerequisites:
        refuse_missing(options.config, chosen, rest)
        planned = [entry for entry in planned if entry.experiment.hash in asked]
    states = read_states(planned)
    for entry in planned:
        if states[entry.experiment.hash].name == "stale":
            raise InputError(f"{options.config}: {label(entry)}: stale: {states[entry.experiment.hash].detail}")
    # A prerequisite that nobody asked for has to be trained, not evaluated.
    ended = {key: ("done",) if key in asked else ("done", "trained") for key in states}
    todo = [entry for entry in planned if states[entry.experiment.hash].name not in ended[entry.experiment.hash]]
    if options.dry_run:
        for entry in todo:
            print(f"would run {label(entry)} ({states[entry.experiment.hash].name})")
        print(f"{len(todo)} to run, {len(planned) - len(todo)} done already")
    require_data(todo)
    if options.dry_run:
        return
    for entry in planned:
        if states[entry.experiment.hash].name in ("done", "trained"):
            remove_dead_lock(entry.experiment)
    tags = (list_name(options.config),)
    if options.index is not None and options.index.isdigit() and len(chosen) == 1 and len(todo) <= 1:
        run_alone(todo, chosen[0], tags)
    else:
        from train.study import run_study

        # Entries that share a task of a cluster were put together to run side by side.
        workers = options.workers or (len(chosen) if is_frozen(options.config) else default_workers())
        run_study(todo, len(planned) - len(todo), asked, tags, workers, begin)


def run_alone(todo: Sequence[Entry], entry: Entry, tags: tuple[str, ...]) -> None:
    """One entry in this process, with a progress bar."""
    if not todo:
        print(f"{label(entry)}: done already, in {entry.experiment.directory}")
        return
    with uncollected():
        from train.runner import run_experiment
    run_experiment(entry.experiment, tags, quiet=False)
    print(f"{label(entry)}: done, in {entry.experiment.directory}")


def show(config: str, chosen: Sequence[Entry], indices: str | None, rest: Sequence[str]) -> None:
    """Every entry by name with its state; then the counts, and what submitting the list would submit.

    From the files of runs and tasks and one look at Slurm's queue; InputError, after the files' states, where Slurm does not answer and not all is done.
    """
    planned = plan(chosen)
    states = read_states(planned)
    try:
        queued, problem = queued_experiments(), None
    except InputError as error:
        queued, problem = {}, error
    full = full_states(planned, states, queued)
    # Prerequisites that stand in no list are shown where there is something to say of them.
    silent = ("new", "done", "trained")
    shown = [*chosen, *(e for e in planned if e.index is None and full[e.experiment.hash].name not in silent)]
    width = max(len(entry.experiment.name) for entry in shown)
    for entry in shown:
        found = full[entry.experiment.hash]
        index = "-" if entry.index is None else entry.index
        print(f"{index:>5}  {found.name:<9} {entry.experiment.dataset}/{entry.experiment.name:<{width}}  {found.detail}".rstrip())
    counts = Counter(full[entry.experiment.hash].name for entry in chosen)
    entries = "1 entry" if len(chosen) == 1 else f"{len(chosen)} entries"
    print(f"{entries}: " + ", ".join(f"{number} {name}" for name, number in counts.most_common()))
    others = len(queued.keys() - states.keys())
    if others:
        print(
            f"{others} more from these runs {'is' if others == 1 else 'are'} queued or running, of other lists or of this one as it was before"
        )
    if problem is not None and set(counts) != {"done"}:
        raise problem
    left = remainder(planned, {entry.experiment.hash for entry in chosen}, states, queued).entries
    own = [entry.index for entry in left if entry.index is not None]
    parts = f" and {len(left) - len(own)} of their prerequisites" if len(left) > len(own) else ""
    command = " ".join(["bash submit_array.sh", config, *([f"--index {indices}"] if indices else []), *rest])
    print(f"{command} would {'submit' if available() else 'run'} {f'{len(own)}: {brief(own)}{parts}' if left else 'nothing'}")


if __name__ == "__main__":
    sys.exit(main())
