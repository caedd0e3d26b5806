"""Searches hyperparameters: the files of configs/sweeps, with a W&B server or without one.

python -m train.sweep check FILE...                   whether files are right, and how many trials they have
python -m train.sweep run FILE [--workers K]          the whole search on this machine, with no server; again after a kill: it goes on
python -m train.sweep register FILE                   the same file as a W&B sweep (`wandb sweep`, after the check)
python -m train.sweep agent ENTITY/PROJECT/ID         runs its trials (`wandb agent`, watched); --count N
python -m train.sweep best SOURCE...                  the winner, its trials and a list with all seeds, in runs/sweeps/<name>/
python -m train.sweep trial --KEY=VALUE...            one trial, as agents call it
python -m train.sweep submit STEP_ONE [STEP_TWO]      all of it, on Slurm where there is one (what submit_scripts/submit_sweep.sh calls)

SOURCE is a W&B sweep (ENTITY/PROJECT/ID) or the file of a local search.
"""

import os

# Threads that spin while they wait make small operations up to 100 times slower on a shared CPU; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import signal
import sys
from collections.abc import Callable, Sequence

from errors import Arguments, report_errors
from train import interrupt
from train.lists import read_overrides


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = Arguments("python -m train.sweep", description=__doc__)
    arguments.add_argument("command", choices=COMMANDS)
    arguments.parse_args(words[:1])
    return report_errors(lambda: COMMANDS[words[0]](words[1:]))


def check(words: Sequence[str]) -> None:
    arguments = Arguments("python -m train.sweep check", description="Validates sweep files; nothing is started.")
    arguments.add_argument("files", nargs="+")
    from train.sweep.check import check as check_files

    check_files(arguments.parse_args(words).files)


def run(words: Sequence[str]) -> None:
    arguments = Arguments("python -m train.sweep run", description="Runs a search on this machine, with no server.")
    arguments.add_argument("file")
    arguments.add_argument("--workers", type=at_least_one, metavar="K", help="processes side by side (default: one per core; one on a GPU)")
    options = arguments.parse_args(words)
    from train.sweep.file import read_sweep

    sweep = read_sweep(options.file)
    interrupt.listen(signal.SIGINT)
    from train.pool import default_workers
    from train.sweep.local import search

    search(sweep, options.workers or default_workers())


def register(words: Sequence[str]) -> None:
    arguments = Arguments(
        "python -m train.sweep register", description="Validates a sweep file and registers it with W&B; prints its path."
    )
    arguments.add_argument("file")
    options = arguments.parse_args(words)
    from train.sweep.server import register as register_sweep

    print(register_sweep(options.file))


def agent(words: Sequence[str]) -> None:
    arguments = Arguments(
        "python -m train.sweep agent", description="Runs trials of a W&B sweep, one after the other, until it has no more."
    )
    arguments.add_argument("sweep", metavar="ENTITY/PROJECT/ID")
    arguments.add_argument("--count", type=at_least_one, metavar="N", help="at most N trials")
    options = arguments.parse_args(words)
    from train.sweep.agents import run_agent

    run_agent(options.sweep, options.count)


def best(words: Sequence[str]) -> None:
    arguments = Arguments(
        "python -m train.sweep best", description="Writes a search's winner, its trials as CSV, and a list of the winner."
    )
    arguments.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a W&B sweep (ENTITY/PROJECT/ID) or the file of a local search; several: first what the last one rests on",
    )
    arguments.add_argument("--out", metavar="DIR", help="where to (default: runs/sweeps/<name>/)")
    from train.entry import SEEDS
    from train.sweep.best import read_seeds, write_best

    arguments.add_argument(
        "--seeds", type=read_seeds, default=SEEDS, metavar="LIST", help="the seeds of the list, with commas (default: the study's three)"
    )
    options = arguments.parse_args(words)
    write_best(options.sources, options.out, options.seeds)


def trial(words: Sequence[str]) -> None:
    arguments = Arguments("python -m train.sweep trial", description="One trial: a (dotted) key and its value for each argument.")
    arguments.add_argument("--workers", type=at_least_one, metavar="K", help="parts side by side (default: one per core; one on a GPU)")
    options, rest = arguments.parse_known_args(words)
    values = read_overrides(rest)
    interrupt.listen()
    from train.sweep.trial import run_trial

    run_trial(values, options.workers, quiet=False)


def submit(words: Sequence[str]) -> None:
    from train.sweep.submit import submit as submit_search

    submit_search(words)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "check": check, "run": run, "register": register, "agent": agent, "best": best, "trial": trial, "submit": submit,
}  # fmt: skip


def at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
