"""Evaluates the finished systems of lists, those that share pixels in one pass.

python -m train.evaluate CONFIG [CONFIG ...] [--workers K] [--evaluation.compositions=1957 ...]
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from errors import Arguments, InputError, RunError, report_errors
from train import interrupt
from train.entry import Experiment
from train.lists import read, read_overrides
from train.pool import Job, Outcome, default_workers, run_jobs
from train.run import evaluated, finished, open_run, state

JOBS_PER_WORKER = 4


def main(argv: Sequence[str] | None = None) -> int:
    arguments = Arguments("python -m train.evaluate", description=__doc__)
    arguments.add_argument("config", nargs="+", help="YAML lists of experiments")
    arguments.add_argument("--workers", type=int, default=default_workers(), metavar="K", help="parts of the images side by side")
    options, rest = arguments.parse_known_args(argv)
    interrupt.listen()
    return report_errors(lambda: evaluate_lists(options.config, rest, max(1, options.workers)))


def evaluate_lists(configs: Sequence[str], rest: Sequence[str], workers: int) -> None:
    """Evaluates the finished systems of several lists and names those that are not finished."""
    found = {entry.experiment.hash: entry.experiment for config in configs for entry in read(config, read_overrides(rest))}
    systems = [experiment for experiment in found.values() if experiment.is_system]
    states = {experiment.hash: state(experiment) for experiment in systems}
    for experiment in systems:
        print(
            f"{states[experiment.hash].name:<8} {experiment.name}"
            + ("" if finished(experiment) else "  left out: it has to be trained first")
        )
    ready = [experiment for experiment in systems if states[experiment.hash].name == "trained" and not evaluated(experiment)]
    if not any(finished(experiment) for experiment in systems):
        raise InputError(f"{', '.join(configs)}: no finished system to evaluate; train them with: python -m train {configs[0]}")
    if evaluate_systems(ready, tuple(Path(config).stem for config in configs), workers):
        raise RunError("the evaluation did not finish; the same command goes on with it")


def evaluate_systems(systems: Sequence[Experiment], tags: tuple[str, ...], workers: int) -> int:
    """Evaluates finished systems, those that share pixels in one pass; returns how many passes failed."""
    groups: dict[tuple[str, str, int, str], list[Experiment]] = {}
    for experiment in systems:
        groups.setdefault((experiment.dataset, experiment.testing.key, experiment.test_images, experiment.device), []).append(experiment)
    failures = 0
    for members in groups.values():
        with ExitStack() as stack:
            for experiment in members:
                stack.enter_context(open_run(experiment))
            failures += evaluate_group(members, tags, workers)
    return failures


def evaluate_group(members: Sequence[Experiment], tags: tuple[str, ...], workers: int) -> int:
    first = members[0]
    title = f"evaluation {first.testing.key} of {len(members)} systems on {first.dataset}"
    log = first.directory / "log.txt"
    # A few jobs per worker: progress can be seen, and starting processes does not count.
    size = -(-first.evaluation_parts // (JOBS_PER_WORKER * workers))
    shares = [range(i, min(i + size, first.evaluation_parts)) for i in range(0, first.evaluation_parts, size)]
    jobs = [
        Job(f"{i}", f"{title}, part {i + 1} of {len(shares)}", evaluate_parts, (list(members), share), log)
        for i, share in enumerate(shares)
    ]
    last = Job(title, title, finish_group, (list(members), tags), log, frozenset(job.key for job in jobs))
    bar = tqdm(total=len(jobs), unit="part", desc=title, disable=not sys.stderr.isatty())
    failed = []

    def report(job: Job, outcome: Outcome) -> None:
        if job is not last:
            bar.update()
        if outcome.exit_code != 0:
            failed.append(job)
            tqdm.write(f"{job.name}: FAILED: {outcome.error} (log: {job.log})")
        elif job is last:
            tqdm.write(f"{title}: done")

    run_jobs([*jobs, last], workers, report)
    bar.close()
    return bool(failed)


def evaluate_parts(experiments: Sequence[Experiment], parts: Sequence[int]) -> None:
    from train.evaluation import evaluate_part

    for part in parts:
        evaluate_part(experiments, part)


def finish_group(experiments: Sequence[Experiment], tags: tuple[str, ...]) -> None:
    from train.runner import finish_evaluation

    finish_evaluation(experiments, tags)


if __name__ == "__main__":
    sys.exit(main())
