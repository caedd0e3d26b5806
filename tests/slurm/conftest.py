"""A real Slurm of one node (start.sh), started for the tests and always stopped; and what a test does with it."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from train.entry import ROOT, Experiment
from train.lists import read
from train.run import state

HERE = Path(__file__).parent
# More CPUs than there are, so that tasks run side by side; jobs are forgotten after seconds; arrays of more than 8 need blocks.
KNOBS = {"CPUS": 4, "GPUS": 2, "MAX_ARRAY": 8, "KILL_WAIT": 10, "MIN_JOB_AGE": 3, "REQUEUE_DELAY": 5, "GRACE": 3}

SITE = """
SBATCH_OPTIONS=(--time=10 --cpus-per-task=1 --mem=800)
WARN_SECONDS=55
MAX_RESTARTS=20
setup() { printf '%s\\n' "$WORDS" >>"$PALIMPSEST_RUNS/../setup.txt"; }
RUN=(bash "$PALIMPSEST_RUNS/../run.sh")
"""
# In place of `train` and `train.sweep` their slow twins on few images.
RUN = """
words=()
for word in "$@"; do
  case $word in train) word=tests.slurm.paced ;; train.sweep) word=tests.slurm.paced_sweep ;; esac
  words+=("$word")
done
exec "${words[@]}"
"""
BASE = "dataset: 0, batch_size: 64, threads: 1, evaluation: {images: 100, compositions: elementals}"
# Long enough to be met at work while it is paced, done in seconds when it is not.
LONG = f"""
- &base {{{BASE}, seed: 5, epochs: 30, method: Identity, lr: 0.05}}
- {{<<: *base, seed: 6}}
"""


@pytest.fixture(scope="session")
def slurm():
    """The path of the slurm.conf of a running Slurm. Skips where there can be none, fails there if PALIMPSEST_SLURM is `required`."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("tests of Slurm run one after the other: make test-slurm")
    environment = os.environ | {f"PALIMPSEST_SLURM_{name}": str(value) for name, value in KNOBS.items()}

    def script(name: str) -> subprocess.CompletedProcess[str]:
        words = ["bash", str(HERE / name)]
        return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, timeout=300)

    # A terminated pytest cleans up as an interrupted one does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with open(Path(tempfile.gettempdir()) / f"palimpsest-slurm-{os.getuid()}.lock", "w") as turn:
        # Another session's tests first; what a killed one left is stopped.
        fcntl.flock(turn, fcntl.LOCK_EX)
        script("stop.sh")
        try:
            started = script("start.sh")
            if started.returncode:
                why = started.stderr.strip() or "tests/slurm/start.sh says nothing"
                if os.environ.get("PALIMPSEST_SLURM") == "required":
                    pytest.fail(why, pytrace=False)
                pytest.skip(why.splitlines()[0].removeprefix("error: "))
            os.environ["SLURM_CONF"] = started.stdout.strip()
            yield Path(started.stdout.strip())
        finally:
            os.environ.pop("SLURM_CONF", None)
            script("stop.sh")
            signal.signal(signal.SIGTERM, before)


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Waits until a condition holds; fails after that many seconds."""
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


@dataclass(frozen=True)
class Job:
    """What the submit command says of an array: `wave 1: job 17: 3 entries (0-2)`."""

    wave: int
    id: int
    contents: str


class Cluster:
    """The submit command, the queue and the runs of one test."""

    def __init__(self, folder: Path):
        self.folder, self.runs, self.list = folder, folder / "the runs", folder / "study.yaml"
        self.site, self.pace_file = folder / "site.sh", folder / "pace"
        self.site.write_text(SITE)
        (folder / "run.sh").write_text(RUN)

    def submit(
        self, *arguments: object, code: int = 0, cwd: Path = ROOT, script: str = "submit_array.sh"
    ) -> subprocess.CompletedProcess[str]:
        """`bash submit_array.sh ARGUMENTS`, or another script; fails where it ends with another code."""
        words = ["bash", str(ROOT / script), *map(str, arguments)]
        ended = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=cwd, timeout=240)
        assert ended.returncode == code, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stdout + ended.stderr
        return ended

    def jobs(self, ended: subprocess.CompletedProcess[str]) -> list[Job]:
        found = re.findall(r"^wave (\d+): job (\d+): (.*)$", ended.stdout, re.MULTILINE)
        return [Job(int(wave), int(job), contents) for wave, job, contents in found]

    def experiments(self, path: Path | None = None) -> list[Experiment]:
        return [entry.experiment for entry in read(path or self.list)]

    def states(self) -> list[str]:
        return [state(experiment).name for experiment in self.experiments()]

    def listed(self) -> list[str]:
        """The lines of --list."""
        ended = subprocess.run([sys.executable, "-m", "train", self.list, "--list"], capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    def ask(self, *words: object) -> str:
        """What one of Slurm's commands prints."""
        return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True, timeout=60).stdout

    def queue(self, field: str = "%T") -> dict[str, str]:
        """A field of squeue by task, `A_a`."""
        rows = (line.split(" ", 1) for line in self.ask("squeue", "-r", "-h", "-o", f"%i {field}").splitlines())
        return {task: value.strip() for task, value in rows}

    def show(self, task: object) -> dict[str, str]:
        """The record of a task while Slurm keeps it; empty when it is forgotten."""
        shown = subprocess.run(["scontrol", "-o", "show", "job", str(task)], capture_output=True, text=True, timeout=60)
        return dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)

    def restarts(self, task: object) -> int:
        # While a task is put back, Slurm says nothing of it for a moment.
        return int(self.show(task).get("Restarts", -1))

    def next_id(self) -> int:
        """The id that the next job will have: what tells whether anything was submitted."""
        found = re.search(r"NEXT_JOB_ID\s*=\s*(\d+)", self.ask("scontrol", "show", "config"))
        assert found
        return int(found[1])

    def pace(self, seconds: float) -> None:
        """From now on training rests for so long after every step."""
        self.pace_file.write_text(str(seconds))

    def at_work(self, experiment: Experiment, rows: int = 1, attempts: int = 1) -> None:
        """Waits until an experiment has finished that many epochs and is in its so-manieth attempt."""
        until(lambda: len(jsonl(experiment.directory / "attempts.jsonl")) >= attempts)
        until(lambda: state(experiment).name == "running" and len(jsonl(experiment.directory / "metrics.jsonl")) >= rows)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Inside, what is submitted waits: no job starts."""
        self.ask("scontrol", "update", "PartitionName=main", "State=DOWN")
        try:
            yield
        finally:
            self.ask("scontrol", "update", "PartitionName=main", "State=UP")

    def empty(self, seconds: float = 180) -> None:
        """Waits until nothing is queued or running."""
        until(lambda: not self.queue(), seconds)


@pytest.fixture
def cluster(slurm, tmp_path, monkeypatch):
    """An empty queue, runs of its own, small data; whatever a test leaves in the queue is cancelled."""
    cluster = Cluster(tmp_path)
    for name, value in {
        "PALIMPSEST_RUNS": cluster.runs,
        "PALIMPSEST_SITE": cluster.site,
        "PACE": cluster.pace_file,
        "WANDB_MODE": "disabled",
        "TINY_TRAIN": "20",
        "OMP_NUM_THREADS": "1",
        "PALIMPSEST_POLL_SECONDS": "0.5",
        # An environment travels whole, whatever its values hold.
        "WORDS": "commas, and spaces",
    }.items():
        monkeypatch.setenv(name, str(value))
    yield cluster
    subprocess.run(["scancel", "--user=root"], check=False, timeout=30)
    cluster.pace_file.unlink(missing_ok=True)
    cluster.empty(30)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The runs of LONG by hash, run on this machine without Slurm and without disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "long.yaml").write_text(LONG)
    return run_here(folder, folder / "long.yaml")


def run_here(folder: Path, path: Path) -> dict[str, Path]:
    """Runs a list on this machine; its run directories by hash."""
    environment = os.environ | {"PALIMPSEST_RUNS": str(folder), "WANDB_MODE": "disabled", "TINY_TRAIN": "20", "OMP_NUM_THREADS": "1"}
    environment.pop("PACE", None)
    words = [sys.executable, "-m", "tests.slurm.paced", str(path), "--workers", "2"]
    subprocess.run(words, env=environment, check=True, capture_output=True, timeout=240, cwd=ROOT)
    return {json.loads(file.read_text())["hash"]: file.parent for file in folder.glob("*/*/experiment.json")}


def jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def metrics(directory: Path) -> list[dict]:
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "images_per_second")}
        for row in jsonl(directory / "metrics.jsonl")
    ]


def assert_same_run(experiment: Experiment, other: Path) -> None:
    """Weights, metrics and evaluation of a finished run equal another's to the bit."""
    mine = experiment.directory
    assert state(experiment).name == "done"
    assert metrics(mine) == metrics(other)
    for name in ("weights.safetensors", "evaluation/test-elementals-100.h5"):
        assert (mine / name).exists() == (other / name).exists()
    if (other / "weights.safetensors").exists():
        assert (mine / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
    if experiment.is_system:
        with h5py.File(mine / "evaluation/test-elementals-100.h5") as a, h5py.File(other / "evaluation/test-elementals-100.h5") as b:
            assert set(a) == set(b)
            assert all(np.array_equal(a[key][()], b[key][()]) for key in a)
