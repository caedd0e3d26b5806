"""Processes that are killed (SIGKILL) or told to stop (SIGTERM), at random moments and at chosen places, and started again."""

from collections.abc import Iterator
from functools import partial
from random import Random
from signal import SIGKILL, SIGTERM

from benchmarks.faults.cases import Bench, expect
from benchmarks.faults.trials import Outcome, Trial
from errors import COME_AGAIN

# (row of the table, place and passing, method, whether it is a quick run's too)
PLACES = [
    ("in a checkpoint write", "checkpoint write:1", "Identity", False),
    ("in a checkpoint write", "checkpoint write:2", "Contrastive", False),
    ("in a checkpoint write", "checkpoint write:12", "Module", True),
    ("in a checkpoint write", "checkpoint rename:3", "Autoencoder", False),
    ("in writing the weights", "weights write:1", "Router", False),
    ("in validation", "validation:3", "CrossEntropy", False),
    ("in validation", "validation:4", "JointClassifier", True),
    ("in the level search", "level search:4", "Module", True),
    ("in an evaluation", "evaluation:200", "ModularSystem", True),
    ("in an evaluation", "evaluation:700", "ImgSpaceJoint", False),
    ("in an evaluation", "evaluation write:2", "ImgSpaceIdentity", False),
]
# How long a process may take to save after SIGTERM, in seconds: what a cluster commonly gives.
GRACE = 30


def trials(bench: Bench, quick: bool) -> Iterator[Trial]:
    """50 SIGKILLs, those at random moments over all entries, many of them twice in one run, and 16 SIGTERMs; quick: 12 and 2."""
    chosen = [place for place in PLACES if place[3] or not quick]
    for row, place, method, _ in chosen:
        yield Trial(f"SIGKILL {row}", partial(kill_at, bench, bench.entries(method)[0], place))
    entries = range(len(bench.experiments))
    left = (12 if quick else 50) - len(chosen)
    # How often in one run: twice for all entries, then once.
    plan = [(index, 2) for index in entries] * (not quick) + [(index, 1) for index in entries] * 2
    while left > 0:
        index, times = plan.pop(0)
        times = min(times, left)
        left -= times
        yield Trial("SIGKILL at a random moment", partial(kill, bench, index, times, bench.random()))
    for index in (entries[4], entries[8]) if quick else [*entries, *entries[:5]]:
        yield Trial("SIGTERM at a random moment", partial(stop, bench, index, bench.random()))


def kill(bench: Bench, index: int, times: int, random: Random) -> Outcome:
    """Killed so many times at moments drawn uniformly over the time after start-up, then run to the end."""
    with bench.case(index) as case:
        places = []
        for _ in range(times):
            case.at_random(random, SIGKILL, -SIGKILL)
            places.append(case.where())
        case.go_on()
    return Outcome(times, went_on=True, notes=tuple(places))


def kill_at(bench: Bench, index: int, fault: str) -> Outcome:
    """Killed from inside at a chosen place, then run to the end."""
    with bench.case(index) as case:
        case.die(fault)
        case.go_on()
    return Outcome(went_on=True)


def stop(bench: Bench, index: int, random: Random) -> Outcome:
    """Told to stop at a random moment: says so with its own exit code within the grace, having saved, then run to the end."""
    with bench.case(index) as case:
        ending, seconds = case.at_random(random, SIGTERM, COME_AGAIN)
        expect(len(ending.lines()) == 1 and ending.err.startswith("stopped: "), f"does not say where it stopped: {ending}")
        expect(case.text("stopped.json"), "stopped.json is missing")
        saved = (case.directory / "done.json").exists() or (case.directory / "checkpoint" / "last.pt").exists()
        expect(saved and seconds < GRACE, f"no checkpoint within {GRACE} s (took {seconds:.1f} s)")
        case.go_on()
    return Outcome(went_on=True, seconds=seconds)
