"""A search from its first step to the list of its winner: registered, run by agents, its winner written, then the step that rests on it.

bash submit_scripts/submit_sweep.sh STEP_ONE [STEP_TWO]            on Slurm where there is one, else on this machine
bash submit_scripts/submit_sweep.sh STEP_ONE STEP_TWO --agents 4   four trials at a time
bash submit_scripts/submit_sweep.sh STEP_ONE STEP_TWO --no-server  without a W&B server; so it is, too, where there is no account
bash submit_scripts/submit_sweep.sh ... -- --partition=long        everything after -- goes to sbatch

A step is a sweep file, or a sweep that is registered already (ENTITY/PROJECT/ID). A step-two file names the winner of step one
(runs/sweeps/<name>/best.yaml). It ends with runs/sweeps/<name of the last step>/list.yaml, ready for submit_array.sh, and trials.csv of all steps.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import COME_AGAIN, Arguments, InputError, Interrupted, RunError
from train import frozen, interrupt, slurm
from train.entry import ROOT, SEEDS, runs_root
from train.pool import cores, default_workers
from train.run import write_atomically
from train.site import Site, read_site
from train.sweep.best import read_seeds, write_best
from train.sweep.file import SweepFile, read_sweep
from train.sweep.trials import parse_sweep, sweeps_root

AGENT = (sys.executable, "-m", "train.sweep", "agent")


@dataclass(frozen=True)
class Step:
    """One step: what the user named, the name of its search, its parameters as W&B has them, and its file (None: it is registered already)."""

    source: str
    name: str
    parameters: Mapping[str, Any]
    sweep: SweepFile | None


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
    registered = [text for text in options.steps if is_registered(text)]
    if options.no_server and registered:
        raise InputError(f"--no-server: {registered[0]} is a registered sweep, which needs its server; give its file")
    local = options.local or not slurm.available()
    if local and more:
        raise InputError(f"{' '.join(more)}: options after -- are sbatch's, and this runs here")
    steps = [read_step(text) for text in options.steps]
    check_chain(steps)
    require_data(steps)
    site = None if local else read_site(more)
    server = not options.no_server and (bool(registered) or has_server())
    where, how = "on Slurm" if site else "on this machine", "as W&B sweeps" if server else "without a W&B server"
    print(f"{' then '.join(describe(step) for step in steps)}; {where}, {how}", flush=True)
    if options.dry_run:
        return
    if site is None:
        sources = [register(step) if server else step.source for step in steps]
        run_here(steps, sources, server, options.agents, options.seeds)
        return
    sources = [register(step) if server else freeze(step) for step in steps]
    jobs = submit_chain(steps, sources, server, options.agents, options.seeds, site)
    if options.wait:
        follow(jobs, sweeps_root() / steps[-1].name / "list.yaml")


def is_registered(text: str) -> bool:
    """Whether a step is a W&B sweep, not a file."""
    return not text.endswith((".yaml", ".yml")) and not Path(text).exists() and bool(parse_sweep(text))


def read_step(text: str) -> Step:
    """The step that a file or a registered sweep is; InputError where it is neither."""
    if not is_registered(text):
        sweep = read_sweep(text)
        return Step(text, sweep.name, sweep.raw["parameters"], sweep)
    from train.sweep.server import read_server_sweep

    config = read_server_sweep(text).config
    return Step(text, str(config.get("name") or text.rpartition("/")[2]), config.get("parameters", {}), None)


def describe(step: Step) -> str:
    return f"{step.name} ({step.sweep.trials} trials)" if step.sweep else f"{step.name} ({step.source})"


def check_chain(steps: Sequence[Step]) -> None:
    """InputError where a later step names the winner of none before it, or two are one."""
    for number, step in enumerate(steps[1:], 1):
        before = [f"runs/sweeps/{earlier.name}/best.yaml" for earlier in steps[:number]]
        if step.name in [earlier.name for earlier in steps[:number]]:
            raise InputError(f"{step.source}: two steps are named {step.name}, and a winner's folder is named by its search")
        if not any(f'"{path}"' in json.dumps(step.parameters, default=str) for path in before):
            raise InputError(f"{step.source}: rests on no step before it: none of its parameters is {' or '.join(before)}")


def require_data(steps: Sequence[Step]) -> None:
    from data import datasets

    for step in steps:
        for name in step.sweep.datasets if step.sweep else []:
            datasets.require(name)


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
    from train.sweep.server import register_once

    path, before = register_once(step.source)
    print(f"{step.name}: W&B sweep {path}{', registered before' if before else ''}", flush=True)
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
    interrupt.listen(signal.SIGINT, signal.SIGHUP)
    for number, step in enumerate(steps, 1):
        if server:
            run_agents(sources[number - 1], agents, f"bash submit_scripts/submit_sweep.sh {' '.join(sources)} --agents {agents} --local")
        else:
            from train.sweep.local import search

            assert step.sweep is not None
            search(step.sweep, default_workers())
        write_best(sources[:number], None, seeds)


def run_agents(sweep: str, agents: int, command: str) -> None:
    """Runs agents of a sweep side by side to their end; they share the cores. `command` goes on where they stopped or failed."""
    share = max(1, cores() // agents)
    environment = {"OMP_NUM_THREADS": str(share)} | os.environ | {"PALIMPSEST_CORES": str(share)}
    # In sessions of their own: a terminal's signals are handed on once, not twice.
    processes = [subprocess.Popen([*AGENT, sweep], env=environment, start_new_session=True) for _ in range(agents)]
    while any(process.poll() is None for process in processes):
        if interrupt.told():
            for process in processes:
                process.terminate()
            break
        time.sleep(0.2)
    codes = [process.wait() for process in processes]
    if interrupt.told() or COME_AGAIN in codes:
        raise Interrupted(f"{sweep}: its trials are saved; go on with: {command}")
    if any(codes):
        raise RunError(f"{sweep}: {sum(map(bool, codes))} of {agents} agents failed; when that is mended, go on with: {command}")


def submit_chain(steps: Sequence[Step], sources: Sequence[str], server: bool, agents: int, seeds: Sequence[int], site: Site) -> list[int]:
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
        raise InputError(f"{error}; nothing of this search stays in the queue; --local searches on this machine") from None
    print(f"logs: {frozen.folder()}/<job>_<agent>.out; at the end: {sweeps_root() / steps[-1].name / 'list.yaml'} and trials.csv")
    print(f"stop it all with: scancel {' '.join(map(str, jobs))}", flush=True)
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
    """Waits until the jobs have left the queue, and shows what the last one wrote; RunError, with what it said, where one failed."""
    begin = time.time()
    try:
        while any(task.array in jobs for task in slurm.queue()):
            time.sleep(float(os.environ.get("PALIMPSEST_POLL_SECONDS") or 15))
    except KeyboardInterrupt:
        raise Interrupted("waiting; the jobs go on") from None
    logs = [log for job in jobs for log in sorted(frozen.folder().glob(f"{job}_*.out"))]
    if not result.exists() or result.stat().st_mtime < begin - 1:
        failed = [log for log in logs if not ended_well(log)]
        raise RunError(f"the search did not come to its end{f'; {last_words(failed[0])} (log: {failed[0]})' if failed else ''}")
    print(logs[-1].read_text(errors="replace"), end="")


def ended_well(log: Path) -> bool:
    """Whether the last attempt of a task ended with exit code 0, by its log."""
    return log.read_text(errors="replace").rstrip().endswith("ended with exit code 0")


def last_words(log: Path) -> str:
    """What a task's log says of its end: an agent's own words (its last trial's may follow them), else the last error, else the last line."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    errors = [line for line in lines if re.match("error: |failed: |stopped: ", line)]
    return ([line for line in errors if line.startswith("failed: agent of ")] or errors or lines)[-1]
