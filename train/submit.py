"""Submits what remains of a list to Slurm: an array for each wave, every entry after its own prerequisites.

bash submit_array.sh CONFIG                      what is neither finished nor queued, with its prerequisites; again for what failed
bash submit_array.sh CONFIG --index 0-5,9        these entries; --with-prerequisites brings what they need
bash submit_array.sh CONFIG --dry-run            what would be submitted
bash submit_array.sh CONFIG -- --partition=long  everything after -- goes to sbatch
"""

import argparse
import fcntl
import os
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from errors import Arguments, InputError, Interrupted, RunError, report_errors
from train import frozen, slurm
from train.entry import ROOT, Experiment, runs_root
from train.lists import Entry, brief, label, plan, ranges, read, read_overrides, read_yaml
from train.needs import refuse_missing, require_data
from train.run import State, state
from train.site import Site, read_site
from train.waves import Remainder, full_states, job_name, queued_experiments, read_states, remainder

# Reasons that pass by themselves; any other is told after submitting, since Slurm may wait for ever with it.
PASSING = {"None", "Priority", "Resources", "Dependency", "JobArrayTaskLimit", "BeginTime", "JobHeldUser"}
# Slurm takes no longer list of indices; a longer condition is given to waiting tasks through scontrol instead of on the command line.
LONGEST = 3900


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    arguments = Arguments("bash submit_array.sh", description=__doc__)
    arguments.add_argument("config", help="a YAML list of experiments")
    arguments.add_argument("--index", metavar="LIST", help="the entries to submit: a number, or numbers and ranges (0-5,9)")
    arguments.add_argument("--with-prerequisites", action="store_true", help="with --index: also submit what the entries need")
    arguments.add_argument("--max-parallel", type=int, metavar="K", help="at most K tasks of an array at once")
    arguments.add_argument("--per-task", type=int, default=1, metavar="K", help="K entries share one task and its GPU, side by side")
    arguments.add_argument("--dry-run", action="store_true", help="show what would be submitted")
    arguments.add_argument("--wait", action="store_true", help="after submitting, follow the jobs: a line for each entry that ends")
    options, rest = arguments.parse_known_args(words[:cut])
    return report_errors(lambda: submit_list(options, rest, words[cut + 1 :]))


def submit_list(options: argparse.Namespace, rest: list[str], more: Sequence[str]) -> None:
    """Submits what remains of a list.

    InputError where the list, the site file or an option is wrong, data is missing, or Slurm does not answer or refuses.
    """
    for name in ("max_parallel", "per_task"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    overrides = read_overrides(rest)
    chosen = read(options.config, overrides, options.index)
    planned = plan(chosen)
    asked = {entry.experiment.hash for entry in chosen}
    site = read_site(more)
    if site.path.name == "site.example.sh":
        print(f"the cluster's options are those of {site.path.relative_to(ROOT)}: copy it to slurm/site.sh and say there what yours needs")
    with nullcontext() if options.dry_run else submitting():
        states, queued = read_states(planned), queued_experiments()
        if options.index is not None and not options.with_prerequisites:
            refuse_missing(options.config, chosen, rest, queued, "bash submit_array.sh")
            planned = [entry for entry in planned if entry.experiment.hash in asked]
        found = remainder(planned, asked, states, queued)
        for entry, reason in found.left_out:
            print(f"left out {label(entry)}: {reason}")
        counted = tally(planned, asked, states, queued)
        if not found.entries:
            print(f"nothing to submit: {counted}")
        else:
            require_data(found.entries)
            positions = place(found.entries, options.config)
            groups = [chunks([positions[entry.experiment.hash] for entry in wave], options.per_task) for wave in found.waves]
            if options.dry_run:
                for number, wave in enumerate(groups, 1):
                    print(f"wave {number}: would submit {contents(wave, positions, found)}")
            else:
                by_position = {positions[entry.experiment.hash]: entry.experiment for entry in found.entries}
                jobs = submit_waves(options.config, by_position, groups, positions, queued, site, options.max_parallel, found)
            print(f"{len(found.entries)} of {len(planned)} {'would be ' if options.dry_run else ''}submitted; {counted}")
            if not options.dry_run:
                command = " ".join(
                    ["python -m train", options.config, "--list", *([f"--index {options.index}"] if options.index else []), *rest]
                )
                print(f"logs: {frozen.folder()}/<job>_<index>.out; states: {command}")
                warn_of_reasons(jobs)
    if options.wait and not options.dry_run:
        follow(plan(chosen), asked)


@contextmanager
def submitting() -> Iterator[None]:
    """One submission at a time from these runs, so that two do not submit the same; InputError where the folder cannot be made."""
    try:
        frozen.folder().mkdir(parents=True, exist_ok=True)
        with open(frozen.folder() / ".submitting", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise InputError(f"{frozen.folder()}: cannot be written ({error.strerror}); set PALIMPSEST_RUNS to a folder that can") from None


def tally(planned: Sequence[Entry], asked: Collection[str], states: Mapping[str, State], queued: Mapping[str, slurm.Task]) -> str:
    """How many are finished, queued and running, in words."""
    hashes = {entry.experiment.hash for entry in planned}
    done = {key for key in hashes if states[key].name == "done" or (states[key].name == "trained" and key not in asked)}
    running = {key for key in hashes - done if states[key].name == "running"}
    return f"{len(done)} finished, {len((hashes & queued.keys()) - done - running)} queued, {len(running)} running"


def place(entries: Sequence[Entry], config: str) -> dict[str, int]:
    """Positions by hash: those in the list, and after its end for prerequisites that stand in none."""
    positions = {entry.experiment.hash: entry.index for entry in entries if entry.index is not None}
    strangers = [entry.experiment.hash for entry in entries if entry.index is None]
    length = len(read_yaml(config)) if strangers else 0
    return positions | {key: length + number for number, key in enumerate(strangers)}


def chunks(positions: Sequence[int], size: int) -> list[list[int]]:
    """Positions that share a task, in order."""
    ordered = sorted(positions)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def contents(wave: Sequence[Sequence[int]], positions: Mapping[str, int], found: Remainder) -> str:
    """What a wave holds, in words."""
    members = [position for group in wave for position in group]
    own = {positions[entry.experiment.hash] for entry in found.entries if entry.index is not None}
    in_list, others = [p for p in members if p in own], [p for p in members if p not in own]
    words = [f"{len(in_list)} {'entry' if len(in_list) == 1 else 'entries'} ({brief(in_list)})"] if in_list else []
    words += [f"{len(others)} of their prerequisites (as {brief(others)})"] if others else []
    return " and ".join(words) + (f" in {len(wave)} tasks" if len(wave) < len(members) else "")


def submit_waves(
    config: str, experiments: Mapping[int, Experiment], groups: Sequence[Sequence[Sequence[int]]], positions: Mapping[str, int],
    queued: Mapping[str, slurm.Task], site: Site, max_parallel: int | None, found: Remainder,
) -> list[int]:  # fmt: skip
    """Freezes the list and submits its waves, in blocks where an index would exceed MaxArraySize; returns the jobs' ids."""
    limit = slurm.max_array_size()
    path = frozen.freeze(config, experiments, [group for wave in groups for group in wave])
    # The task that makes an experiment, as dependencies name it.
    maker = {key: task.id for key, task in queued.items()}
    jobs: list[int] = []
    try:
        for number, wave in enumerate(groups, 1):
            for offset, members in blocks(wave, limit):
                conditions = [condition([experiments[position] for position in group], maker) for group in members]
                job = submit_block(path, offset, [group[0] for group in members], conditions, site, max_parallel)
                for group in members:
                    maker |= {experiments[position].hash: f"{job}_{group[0] - offset}" for position in group}
                block = f", array indices are the positions less {offset}" if offset else ""
                print(f"wave {number}: job {job}: {contents(members, positions, found)}{block}", flush=True)
                jobs.append(job)
    except slurm.Refused as error:
        # What was accepted with the same options would wait for ever.
        if jobs:
            slurm.cancel(jobs)
        raise InputError(f"{error}; nothing of this submission stays in the queue") from None
    except InputError as error:
        raise InputError(f"{error}{f'; job {ranges(jobs)} is in the queue' if jobs else ''}") from None
    return jobs


def blocks(wave: Sequence[Sequence[int]], limit: int) -> Iterator[tuple[int, list[Sequence[int]]]]:
    """Tasks (their positions) that can be one array, with the offset of its indices: these stay below MaxArraySize `limit`, and their list is not too long for sbatch."""
    by_offset: dict[int, list[Sequence[int]]] = defaultdict(list)
    for group in wave:
        by_offset[group[0] // limit * limit].append(group)
    for offset, members in by_offset.items():
        start = stop = length = 0
        for run in ranges(group[0] - offset for group in members).split(","):
            if length + len(run) >= LONGEST:
                yield offset, members[start:stop]
                start, length = stop, 0
            first, _, last = run.partition("-")
            stop += int(last or first) - int(first) + 1
            length += len(run) + 1
        yield offset, members[start:]


def condition(experiments: Sequence[Experiment], maker: Mapping[str, str]) -> str:
    """The dependency of a task: the tasks in the queue that make what its experiments need. Empty where everything is there."""
    needed = {maker[part.hash] for experiment in experiments for part in experiment.requires() if part.hash in maker}
    return "afterok:" + ":".join(sorted(needed)) if needed else ""


def submit_block(path: Path, offset: int, firsts: Sequence[int], conditions: Sequence[str], site: Site, max_parallel: int | None) -> int:
    """Submits one array. Tasks with dependencies that differ are held until each has its own, so that none waits for, or is cancelled by, another's."""
    indices = [first - offset for first in firsts]
    throttle = f"%{max_parallel}" if max_parallel else ""
    several = len(set(conditions)) > 1 or len(conditions[0]) > LONGEST
    job = slurm.sbatch(
        [
            *site.options,
            f"--job-name={job_name(path, offset)}",
            f"--array={ranges(indices)}{throttle}",
            f"--chdir={ROOT}",
            f"--output={path.parent.absolute()}/%A_%a.out",
            "--open-mode=append",
            "--export=ALL",
            f"--signal=B:USR2@{site.warn_seconds}",
            # What can never start any more is cancelled instead of waiting for ever.
            "--kill-on-invalid-dep=yes",
            *(["--hold"] if several else [f"--dependency={conditions[0]}"] if conditions[0] else []),
            str(ROOT / "slurm" / "array.sbatch"),
            str(path.absolute()),
            str(offset),
        ],
        {"PALIMPSEST_RUNS": str(runs_root().absolute()), "PALIMPSEST_SITE": str(site.path)},
    )
    if several:
        by_condition = defaultdict(list)
        for index, own in zip(indices, conditions):
            by_condition[own].append(index)
        slurm.depend([(f"{job}_[{ranges(waiting)}]", own) for own, waiting in by_condition.items() if own], job)
    frozen.note_submission(job, path, offset, indices)
    return job


def warn_of_reasons(jobs: Sequence[int]) -> None:
    """Tells where Slurm accepted a job that it may never start (too long a time, too many cores for the partition)."""
    for _ in range(6):
        found = slurm.reasons(jobs)
        if any(reason != "None" for reasons in found.values() for reason in reasons):
            break
        time.sleep(0.5)
    for job, reasons in found.items():
        for reason in sorted(reasons - PASSING):
            print(f"job {job} waits: {reason}; if that does not pass by itself: scancel {job}, and ask for less")


def follow(planned: Sequence[Entry], asked: Collection[str]) -> None:
    """Prints a line for each entry that was `asked` for as it ends, until none of them is in the queue.

    RunError where one did not finish; Interrupted from the keyboard, which the jobs do not notice.
    """
    chosen = [entry for entry in planned if entry.experiment.hash in asked]
    done = {entry.experiment.hash for entry in chosen if state(entry.experiment).name == "done"}
    told = set(done)
    try:
        while len(told) < len(chosen):
            queued = queued_experiments()
            left = [entry for entry in chosen if entry.experiment.hash not in told and entry.experiment.hash not in queued]
            states = full_states(planned, read_states(planned), queued) if left else {}
            for entry in left:
                now = states[entry.experiment.hash]
                if now.name in ("running", "queued"):
                    continue
                told.add(entry.experiment.hash)
                done |= {entry.experiment.hash} if now.name == "done" else set()
                ending = "done" if now.name == "done" else f"{now.name.upper()}: {now.detail}"
                print(f"[{len(done)}/{len(chosen)}] {label(entry)}: {ending}", flush=True)
            if len(told) < len(chosen):
                time.sleep(float(os.environ.get("PALIMPSEST_POLL_SECONDS") or 15))
    except KeyboardInterrupt:
        raise Interrupted("waiting; the jobs go on, and the same command waits for them again") from None
    if missing := len(chosen) - len(done):
        raise RunError(f"{missing} of {len(chosen)} did not finish; the same command submits them again")


if __name__ == "__main__":
    sys.exit(main())
