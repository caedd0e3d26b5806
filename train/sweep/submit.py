"""A search from its first step to the list of its winner: registered, run by agents, its winner written, then the step that rests on it.

bash submit_scripts/submit_sweep.sh STEP_ONE [STEP_TWO]            on Slurm where there is one, else on this machine
bash submit_scripts/submit_sweep.sh STEP_ONE STEP_TWO --agents 4   four trials at a time
bash submit_scripts/submit_sweep.sh STEP_ONE STEP_TWO --no-server  without a W&B server; so it is, too, where there is no account
bash submit_scripts/submit_sweep.sh ... -- --partition=long        everything after -- goes to sbatch

A step is a sweep file, or a sweep that is registered already (ENTITY/PROJECT/ID). A step-two file names the winner of step one
(runs/sweeps/<name>/best.yaml). It ends with runs/sweeps/<name of the last step>/list.yaml, ready for submit_array.sh, and trials.csv of all steps.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import COME_AGAIN, Arguments, InputError, Interrupted, RunError
from train import frozen, interrupt, slurm
from train.entry import ROOT, SEEDS, runs_root
from train.fields import choose
from train.pool import cores, default_workers
from train.run import write_atomically
from train.site import Site, read_site
from train.sweep.agents import parse_sweep
from train.sweep.best import read_seeds, write_best
from train.sweep.file import SweepFile, read_sweep
from train.sweep.trials import sweeps_root


@dataclass(frozen=True)
class Step:
    """One step: what names it, its file where it is one, and how many trials it has at most (None: the server knows)."""

    source: str
    sweep: SweepFile | None

    @property
    def name(self) -> str:
        return self.sweep.name if self.sweep else self.source.rpartition("/")[2]


def submit(words: Sequence[str]) -> None:
    """Runs or submits a search; InputError where a file, an option or Slurm is not right, RunError where it fails, Interrupted where it was stopped."""
    cut = words.index("--") if "--" in words else len(words)
    arguments = Arguments("bash submit_scripts/submit_sweep.sh", description=__doc__)
    arguments.add_argument("steps", nargs="+", metavar="STEP")
    arguments.add_argument("--agents", type=int, default=1, metavar="N", help="agents of the W&B sweep side by side (default: 1)")
    arguments.add_argument(
        "--seeds",
        type=read_seeds,
        default=SEEDS,
        metavar="LIST",
        help="the seeds of the final list, with commas (default: the study's three)",
    )
    arguments.add_argument("--no-server", action="store_true", help="search with optuna on one machine; its trials share the cores")
    arguments.add_argument("--local", action="store_true", help="run here, also where there is Slurm")
    arguments.add_argument("--wait", action="store_true", help="on Slurm: wait for the end and show it")
    arguments.add_argument("--dry-run", action="store_true", help="show what would be run")
    options = arguments.parse_args(words[:cut])
    more = list(words[cut + 1 :])
    if options.agents < 1:
        raise InputError(f"--agents {options.agents}: must be at least 1")
    steps = [Step(text, None if is_registered(text) else read_sweep(text)) for text in options.steps]
    check_chain(steps)
    require_data(steps)
    local = options.local or not slurm.available()
    if local and more:
        raise InputError(f"{' '.join(more)}: options after -- are sbatch's, and this runs here")
    server = not options.no_server and (any(step.sweep is None for step in steps) or has_server())
    if options.no_server and any(step.sweep is None for step in steps):
        raise InputError("--no-server: a registered sweep needs its server; give its file")
    where = "on this machine" if local else "on Slurm"
    print(
        f"{' then '.join(describe(step) for step in steps)}; {where}, {'as W&B sweeps' if server else 'without a W&B server'}", flush=True
    )
    if options.dry_run:
        return
    if local:
        sources = [register(step) if server else step.source for step in steps]
        run_here(steps, sources, server, options.agents, options.seeds)
    else:
        site = read_site(more)
        sources = [register(step) if server else freeze(step) for step in steps]
        jobs = submit_chain(steps, sources, server, options.agents, options.seeds, site)
        if options.wait:
            follow(jobs, sweeps_root() / steps[-1].name / "list.yaml")


def is_registered(text: str) -> bool:
    """Whether a step is a W&B sweep, not a file."""
    return not text.endswith((".yaml", ".yml")) and not Path(text).exists() and bool(parse_sweep(text))


def describe(step: Step) -> str:
    return f"{step.name} ({step.sweep.trials} trials)" if step.sweep else step.name


def check_chain(steps: Sequence[Step]) -> None:
    """InputError where a later step names the winner of none before it."""
    for number, step in enumerate(steps[1:], 1):
        before = {f"runs/sweeps/{earlier.name}/best.yaml" for earlier in steps[:number]}
        if step.sweep is None or any(earlier.sweep is None for earlier in steps[:number]):
            continue
        named = {value for parameter in step.sweep.parameters.values() for value in parameter.extremes() if isinstance(value, str)}
        if not before & named:
            raise InputError(f"{step.source}: rests on no step before it: none of its parameters is {' or '.join(sorted(before))}")


def require_data(steps: Sequence[Step]) -> None:
    from data import datasets

    for step in steps:
        for name in step.sweep.parameters["dataset"].extremes() if step.sweep else []:
            datasets.require(choose("dataset", name))


def has_server() -> bool:
    """Whether there is an account, so that sweeps are registered."""
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled"):
        return False
    import wandb

    from train.tracking import has_account

    return has_account(wandb)


def register(step: Step) -> str:
    """The path of a step's W&B sweep."""
    if step.sweep is None:
        return step.source
    from train.sweep.server import register as register_sweep

    path = register_sweep(step.source)
    print(f"{step.name}: W&B sweep {path}", flush=True)
    return path


def freeze(step: Step) -> str:
    """A copy of a step's file that stays as it is while its job waits."""
    assert step.sweep is not None
    path = frozen.folder() / f"{step.name}-{step.sweep.hash[:12]}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, step.sweep.path.read_bytes())
    return str(path.absolute())


def run_here(steps: Sequence[Step], sources: Sequence[str], server: bool, agents: int, seeds: Sequence[int]) -> None:
    """Runs the steps one after the other on this machine."""
    interrupt.listen()
    for number, step in enumerate(steps, 1):
        if server:
            run_agents(sources[number - 1], agents)
        else:
            from train.sweep.local import search

            assert step.sweep is not None
            search(step.sweep, default_workers())
        write_best(sources[:number], None, seeds)


def run_agents(sweep: str, agents: int) -> None:
    """Runs agents of a sweep side by side to their end; they share the cores."""
    environment = os.environ | {"PALIMPSEST_WORKERS": str(max(1, cores() // agents))}
    processes = [subprocess.Popen([sys.executable, "-m", "train.sweep", "agent", sweep], env=environment) for _ in range(agents)]
    handed_on = False
    while any(process.poll() is None for process in processes):
        try:
            time.sleep(0.2)
        except KeyboardInterrupt:
            # A terminal tells all processes.
            handed_on = True
        if interrupt.told() and not handed_on:
            handed_on = True
            for process in processes:
                process.terminate()
    codes = [process.returncode for process in processes]
    if handed_on or COME_AGAIN in codes:
        raise Interrupted(f"{sweep}: its trials are saved; go on with: bash submit_scripts/submit_sweep.sh {sweep}")
    if any(codes):
        raise RunError(
            f"{sweep}: {sum(map(bool, codes))} of {agents} agents failed; the trials that are done: python -m train.sweep best {sweep}"
        )


def submit_chain(
    steps: Sequence[Step], sources: Sequence[str], server: bool, agents: int, seeds: Sequence[int], site: Site
) -> list[int]:  # fmt: skip
    """Submits every step's search, and after each what writes its winner; every job after the one before it. Returns their ids."""
    frozen.folder().mkdir(parents=True, exist_ok=True)
    jobs: list[int] = []
    try:
        for number, (step, source) in enumerate(zip(steps, sources), 1):
            work = ["agent", source] if server else ["run", source]
            count = agents if server else 1
            jobs.append(submit_job(f"search-{step.name}", work, count, jobs, site))
            print(f"job {jobs[-1]}: {step.name}: {f'{count} agents' if server else 'the search'}{after(jobs)}", flush=True)
            jobs.append(submit_job(f"best-{step.name}", ["best", *sources[:number], "--seeds", ",".join(map(str, seeds))], 1, jobs, site))
            print(f"job {jobs[-1]}: {step.name}: its winner{after(jobs)}", flush=True)
    except InputError as error:
        if jobs:
            slurm.cancel(jobs)
        raise InputError(f"{error}; nothing of this search stays in the queue") from None
    print(f"logs: {frozen.folder()}/<job>_<agent>.out; at the end: {sweeps_root() / steps[-1].name / 'list.yaml'} and trials.csv")
    return jobs


def after(jobs: Sequence[int]) -> str:
    return f", after job {jobs[-2]}" if len(jobs) > 1 else ""


def submit_job(name: str, work: Sequence[str], count: int, before: Sequence[int], site: Site) -> int:
    """Submits `count` tasks of `python -m train.sweep WORK` that start when the last job before them has ended well."""
    return slurm.sbatch(
        [
            *site.options,
            f"--job-name={name}",
            f"--array=0-{count - 1}",
            f"--chdir={ROOT}",
            f"--output={frozen.folder().absolute()}/%A_%a.out",
            "--open-mode=append",
            "--export=ALL",
            f"--signal=B:USR2@{site.warn_seconds}",
            # Where a step fails, what rests on it is cancelled instead of waiting for ever.
            "--kill-on-invalid-dep=yes",
            *([f"--dependency=afterok:{before[-1]}"] if before else []),
            str(ROOT / "slurm" / "sweep.sbatch"),
            *work,
        ],
        {"PALIMPSEST_RUNS": str(runs_root().absolute()), "PALIMPSEST_SITE": str(site.path)},
    )


def follow(jobs: Sequence[int], result: Path) -> None:
    """Waits until the jobs have left the queue, and shows what the last one wrote; RunError where it wrote nothing."""
    begin = time.time()
    try:
        while any(task.array in jobs for task in slurm.queue()):
            time.sleep(float(os.environ.get("PALIMPSEST_POLL_SECONDS") or 15))
    except KeyboardInterrupt:
        raise Interrupted("waiting; the jobs go on") from None
    logs = [frozen.folder() / f"{job}_0.out" for job in jobs]
    if not logs[-1].exists() or not result.exists() or result.stat().st_mtime < begin - 1:
        ran = [log for log in logs if log.exists()]
        raise RunError(f"the search did not come to its end{f'; see {ran[-1]}' if ran else ''}")
    print(logs[-1].read_text(errors="replace"), end="")
