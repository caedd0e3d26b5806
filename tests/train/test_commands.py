"""What a user types: a whole list, one entry, states, and the mistakes; on real images, a few of each class."""

import json
import os
import resource
import socket
import subprocess
import sys
import time

import pytest

from train.lists import read
from train.run import state

LIST = """
- &base {dataset: 0, seed: 5, epochs: 1, batch_size: 64, evaluation: {images: 100}, method: Identity, lr: 0.05}
- &module {<<: *base, method: Module, corruption: Invert, level: 1, weight: 0.1, backbone: {lr: 0.05}}
- {dataset: 0, seed: 5, epochs: 1, batch_size: 64, evaluation: {images: 100}, method: ModularSystem, backbone: {lr: 0.05}, module: {level: 1, lr: 0.05, weight: 0.1}}
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "list.yaml").write_text(LIST)
    return tmp_path / "runs"


def command(path, *arguments, module="tests.train.tiny", **environment):
    environment = os.environ | {name: str(value) for name, value in environment.items()}
    return subprocess.run(
        [sys.executable, "-m", module, str(path), *arguments], capture_output=True, text=True, env=environment, timeout=300
    )


def test_a_missing_prerequisite_names_the_command_that_makes_it(runs, tmp_path):
    path = tmp_path / "list.yaml"
    refused = command(path, "--index", "1", "--seed=6")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1
    assert f"make it with: python -m train {path} --index 1 --with-prerequisites --seed=6" in refused.stderr
    assert not runs.exists()
    refused = command(path, "--index", "2")
    assert refused.returncode == 2
    assert "(and 6 more)" in refused.stderr
    made = command(path, "--index", "1", "--with-prerequisites", "--workers", "1")
    assert made.returncode == 0, made.stderr
    entries = read(path)
    assert [state(entry.experiment).name for entry in entries] == ["trained", "done", "new"]
    log = next(entry.experiment for entry in entries if entry.index == 0).directory / "log.txt"
    assert "train: 1 epochs, kept epoch 1 with validation loss" in log.read_text()
    # As if it had been killed after its last result was written.
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    lock = entries[1].experiment.directory / "lock"
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": int(ended.stdout), "started": "1", "job": "", "token": "x"}))
    again = command(path, "--index", "1")
    assert again.returncode == 0
    assert "done already" in again.stdout
    assert not lock.exists()
    listed = command(path, "--list")
    assert [line.split()[:2] for line in listed.stdout.splitlines()[:3]] == [["0", "trained"], ["1", "done"], ["2", "new"]]
    dry = command(path, "--dry-run")
    assert dry.stdout.count("would run") == 7
    assert "7 to run, 1 done already" in dry.stdout


def test_a_list_that_is_done_is_shown_without_a_queue_and_any_other_says_what_is_unknown(runs, tmp_path):
    """Something was submitted once, and Slurm's controller does not answer."""
    path, tools = tmp_path / "one.yaml", tmp_path / "tools"
    tools.mkdir()
    for name in ("sbatch", "squeue"):
        (tools / name).write_text("#!/bin/sh\necho 'squeue: error: no controller' >&2\nexit 1\n")
        (tools / name).chmod(0o755)
    path.write_text(LIST.splitlines()[1] + "\n")
    assert command(path, "--max-parallel", "1").returncode == 0
    # Without it, nothing was ever submitted, and nothing is asked.
    (runs / "slurm").mkdir()
    words = f"{tools}:{os.environ['PATH']}"
    done = command(path, "--list", PATH=words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].split()[:2] == ["0", "done"]
    other = command(path, "--list", "--seed=6", PATH=words)
    assert other.returncode == 2
    assert other.stdout.splitlines()[0].split()[:2] == ["0", "new"]
    assert other.stderr.startswith("error: squeue: no controller; what is queued is unknown; ")
    assert "--local" in other.stderr
    assert other.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_all_data_that_is_missing_is_named_at_once(runs, tmp_path, arguments):
    path = tmp_path / "mixed.yaml"
    line = "- {{dataset: {}, method: Identity, lr: 0.1}}\n".format
    path.write_text(line("FaceScrub") + line("FashionMNIST-mini") * 2 + line("EMNIST"))
    refused = command(path, *arguments, PALIMPSEST_DATA=tmp_path)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert refused.stderr.index("FaceScrub.h5 is missing; run") < refused.stderr.index("EMNIST.h5 is missing; run")
    assert "(needed by entry 0)" in refused.stderr
    assert refused.stderr.endswith("; entries that need none of this: --index 1\n")
    assert refused.stdout.count("would run") == (3 if arguments else 0)
    assert not runs.exists()


def test_a_failing_entry_fails_its_dependents_and_nobody_else(runs, tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text(
        LIST.splitlines()[1].replace("lr: 0.05", "lr: 1e30")
        + "\n"
        + LIST.splitlines()[2].replace("{lr: 0.05}", "{lr: 1e30}")
        + "\n"
        + "- {dataset: 0, seed: 6, epochs: 1, evaluation: {images: 100, compositions: elementals}, method: Identity, lr: 0.05}"
    )
    ended = command(path, "--workers", "2", module="train")
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "loss is not finite in train, epoch 1" in ended.stdout
    assert "not started, since" in ended.stdout
    assert ended.stderr.splitlines()[-1].startswith("failed: 2 of 3 did not finish")
    entries = read(path)
    assert [state(entry.experiment).name for entry in entries] == ["failed", "new", "done"]
    assert "not finite" in state(entries[0].experiment).detail


def wandb_records(directory):
    """What the W&B client wrote, read back by its own command."""
    records = []
    for folder in sorted(directory.glob("wandb/offline-run-*")):
        out = subprocess.run(
            [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)], capture_output=True, text=True, check=True
        )
        records += [json.loads(line) for line in out.stdout.splitlines()]
    return records


def test_wandb_is_told_the_curves_the_compositions_and_the_experiment(runs, tmp_path):
    path = tmp_path / "list.yaml"
    assert command(path, "--index", "0", "--epochs=2", "--study=mine").returncode == 0
    experiment = read(path, {"epochs": 2, "study": "mine"})[0].experiment
    records = wandb_records(experiment.directory)
    run = next(r["run"] for r in records if r["type"] == "run")
    assert (run["project"], run["run_group"], run["job_type"], run["display_name"]) == (
        "palimpsest",
        "FashionMNIST-mini mine",
        "Identity",
        experiment.name,
    )
    assert run["tags"] == ["list"]
    config = run["config"]["update"]
    assert (config["dataset"], config["dataset_number"], config["method"], config["lr"]) == ("FashionMNIST-mini", 0, "Identity", 0.05)
    rows = [r["history"]["item"] for r in records if r["type"] == "history"]
    curves = [row for row in rows if "epoch" in row]
    assert [row["epoch"] for row in curves] == [1, 2]
    assert {"train/loss", "train/accuracy", "valid/loss", "valid/accuracy", "lr", "images_per_second"} <= set(curves[0])
    local = [json.loads(line) for line in (experiment.directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["valid/loss"] for row in curves] == [row["valid_loss"] for row in local]
    compositions = [row for row in rows if "composition/Contrast-GaussianBlur/accuracy" in row]
    assert len(compositions) == 1
    for metric in ("accuracy", "loss"):
        assert sum(key.startswith("composition/") and key.endswith(f"/{metric}") for key in compositions[0]) == 167


def test_a_server_that_does_not_answer_holds_nothing_up(runs, tmp_path):
    path = tmp_path / "list.yaml"
    start = time.time()
    ended = command(path, "--index", "0", WANDB_MODE="online", WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40)
    assert ended.returncode == 0, ended.stderr
    assert time.time() - start < 60
    assert "W&B: 127.0.0.1:9 does not answer" in ended.stderr
    assert len([line for line in ended.stderr.splitlines() if "W&B" in line]) == 1
    assert list(read(path)[0].experiment.directory.glob("wandb/offline-run-*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--index", "3"], "has entries 0 to 2"),
        (["--index", "one"], "is not a number or a range"),
        (["--workers", "0"], "--workers 0: must be at least 1"),
        (["--epochs=0"], "entry 0: epochs: "),
        (["--dataset=99"], "entry 0: dataset: 99 is not on the menu"),
        (["--nonsense"], "unknown argument '--nonsense'"),
        (["--workers", "many"], "error: argument --workers/--max-parallel: must be a whole number, got 'many'; see: python -m train --help"),
        (["--index", "0", "--dataset=CIFAR10"], "python -m data prepare CIFAR10"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_leave_nothing(runs, tmp_path, arguments, words):
    refused = command(tmp_path / "list.yaml", *arguments, module="train", PALIMPSEST_DATA=tmp_path / "nothing")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert words in refused.stderr
    assert not runs.exists()


def test_a_run_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "list.yaml").write_text(LIST)
    (tmp_path / "file").write_text("not a folder")
    refused = command(tmp_path / "list.yaml", "--index", "0", PALIMPSEST_RUNS=tmp_path / "file" / "runs")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "cannot be written" in refused.stderr
    assert "PALIMPSEST_RUNS" in refused.stderr


def test_damage_is_named(runs, tmp_path):
    path = tmp_path / "list.yaml"
    assert command(path, "--index", "0").returncode == 0
    directory = read(path)[0].experiment.directory
    weights = directory / "weights.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\xff" * 100):
        weights.write_bytes(damaged)
        refused = command(path, "--index", "1")
        assert refused.returncode == 2, refused.stderr
        assert f"{weights}: missing or damaged" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    weights.write_bytes(whole)
    record = json.loads((directory / "experiment.json").read_text())
    (directory / "experiment.json").write_text(json.dumps(record | {"recipes": {"Identity": 0}}))
    refused = command(path, "--index", "0")
    assert refused.returncode == 2
    assert "made by recipe {'Identity': 0}" in refused.stderr
    assert "stale" in command(path, "--list").stdout
    (directory / "experiment.json").write_text(json.dumps(record | {"data": "other"}))
    (directory / "done.json").unlink()
    refused = command(path, "--index", "0")
    assert refused.returncode == 2
    assert "data differs from this experiment's" in refused.stderr


def test_a_full_disk_is_a_failed_run_that_goes_on_later(runs, tmp_path):
    path = tmp_path / "list.yaml"
    full = subprocess.run(
        [sys.executable, "-m", "tests.train.tiny", str(path), "--index", "0"], capture_output=True, text=True, timeout=300,
        env=os.environ | {"WANDB_MODE": "disabled"}, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)),
    )  # fmt: skip
    assert full.returncode == 1
    assert full.stderr.startswith("failed: ")
    assert "last.pt: cannot be written: File too large" in full.stderr
    assert len(full.stderr.splitlines()) == 1
    experiment = read(path)[0].experiment
    assert state(experiment).name == "failed"
    assert not list(experiment.directory.rglob("*.tmp"))
    assert command(path, "--index", "0").returncode == 0
    assert state(experiment).name == "done"
