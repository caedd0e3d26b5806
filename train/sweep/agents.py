"""An agent of a W&B sweep: the client's own, watched, so that what it hides is seen.

The client's agent ends with exit code 0 however many of its trials failed, and by its own count gives up after three failures in its first
minute, also where these trials diverged, which is a result of a search. This one counts the trials' own records.

A cluster sends SIGTERM to every process of a job, perhaps twice, of which the client dies in the middle or kills its trial. So the client never
sees it. Trials look for a mark that their agent leaves when it is told to stop; then it ends the client and waits until its trial has saved.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from errors import Interrupted, RunError
from train import interrupt
from train.lock import holder
from train.sweep.server import read_server_sweep
from train.sweep.trials import parse_sweep, read_trial, sweep_folder

CLIENT = (sys.executable, "-m", "wandb", "agent")
# After that many failures in a row (of trials that did not merely diverge) the agent is ended: something is wrong with this machine.
FAILURES = 3
# Where its trials find out whether their agent was told to stop; else it was the sweep that stopped them.
MARK = "PALIMPSEST_AGENT"
LOOK_SECONDS = 0.5
# How long a trial may take from its start until it says that it has begun.
BEGIN_SECONDS = 30


def was_told() -> bool:
    """Whether the agent of this trial was told to stop; so it is taken, too, of an agent that nobody watches."""
    mark = os.environ.get(MARK)
    return not mark or Path(mark).exists()


def obey_agent() -> None:
    """From now on this trial is told to stop when its agent was."""

    def look() -> None:
        while not mark.exists():
            time.sleep(LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ.get(MARK):
        mark = Path(os.environ[MARK])
        threading.Thread(target=look, name="agent", daemon=True).start()


def run_agent(sweep: str, count: int | None) -> None:
    """Runs trials of a sweep until it has no more, or `count`; each agent one at a time.

    InputError where there is no such sweep; RunError where its trials keep failing or the client ends with an error; Interrupted where it was
    told to stop: its trial has saved and went back to the sweep, and whoever asks next goes on with it.
    """
    sweep_id = parse_sweep(sweep)[2]
    # In one line, before the client says it in many.
    read_server_sweep(sweep)
    folder = sweep_folder(sweep_id)
    own = folder / "agents" / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    own.mkdir(parents=True)
    mark = own / "told"
    environment = os.environ | {
        MARK: str(mark), "WANDB_DIR": str(own), "WANDB_AGENT_DISABLE_FLAPPING": "true", "WANDB_AGENT_MAX_INITIAL_FAILURES": "1000000",
    }  # fmt: skip
    # The interpreter of this process is the `python` of the file's command.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    limit = [] if count is None else ["--count", str(count)]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: mark.touch())
    # In a group of its own, which a terminal's signals do not reach; its trials take notice of SIGTERM when they listen.
    with interrupt.shielded():
        process = subprocess.Popen([*CLIENT, "--forward-signals", *limit, sweep], env=environment, process_group=0)
    told = False
    failures: list[str] = []
    while process.poll() is None and not told and not failures:
        time.sleep(LOOK_SECONDS)
        told = mark.exists()
        # The last one is at work.
        failures = failing(ended(endings(folder, own, sweep_id)[:-1]))
    if told or failures:
        mark.touch()
        process.kill()
        process.wait()
        # Where trials fail, the last one perhaps never begins.
        wait_for_trial(folder, own, sweep_id, 0 if failures else BEGIN_SECONDS)
    found = ended(endings(folder, own, sweep_id))
    states = [state for state, _ in found]
    tally = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"agent of {sweep}: {len(states)} trials{f' ({tally})' if tally else ''}", flush=True)
    if told or (mark.exists() and not failures):
        raise Interrupted(f"agent of {sweep}: its trial is saved and goes on with whoever asks the sweep next")
    if states and states.count("failed") == len(states):
        failures = failures or [error for _, error in found]
    if failures:
        raise RunError(f"agent of {sweep}: {len(failures)} trials failed one after the other, the last one: {failures[-1]}")
    if process.returncode:
        raise RunError(f"agent of {sweep}: the client ended with exit code {process.returncode}")


def wait_for_trial(folder: Path, own: Path, sweep_id: str, seconds: float) -> None:
    """Waits until the trial that an agent started last has ended, or has not begun within `seconds`."""
    end = time.monotonic() + seconds
    started = begun(own, sweep_id)
    while started:
        trial = read_trial(folder / started[-1])
        mine = trial is not None and trial.agent == str(own / "told")
        if holder(folder / started[-1] / "lock") is None and (mine or time.monotonic() >= end):
            return
        time.sleep(LOOK_SECONDS / 5)


def begun(own: Path, sweep_id: str) -> list[str]:
    """The run ids of the trials that an agent started, in order; the client leaves a file for each, also where the trial never got to its own."""
    found = sorted((own / "wandb" / f"sweep-{sweep_id}").glob("config-*.yaml"), key=lambda path: path.stat().st_mtime)
    return [path.stem.removeprefix("config-") for path in found]


def endings(folder: Path, own: Path, sweep_id: str) -> list[tuple[str, str]]:
    """State and error of the trials that an agent started, in order."""
    found = []
    for run in begun(own, sweep_id):
        trial = read_trial(folder / run)
        if trial is None or trial.agent != str(own / "told"):
            found.append(("failed", "it ended before it began; see the agent's output"))
        else:
            found.append((trial.state, trial.error))
    return found


def ended(trials: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same of trials that are over: one that did not say how it ended was killed."""
    return [("failed", "it was killed (perhaps for want of memory)") if state == "running" else (state, error) for state, error in trials]


def failing(trials: Sequence[tuple[str, str]]) -> list[str]:
    """The errors of the last FAILURES trials where all of these failed; else none."""
    last = trials[-FAILURES:]
    return [error for _, error in last] if len(last) == FAILURES and all(state == "failed" for state, _ in last) else []
