"""Run directories of a small study, written by the project's own writers with outcomes that the tests choose."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import train.evaluation
from data import datasets
from data.compositions import compositions
from plots import style
from plots.__main__ import main
from train.build import build
from train.entry import Experiment, Trained
from train.facts import prerequisites
from train.run import open_run

DATASET = "FashionMNIST-mini"
IMAGES = 20
NAMES = compositions("167")
COUNTS = np.array([0 if names == ("Identity",) else len(names) for names in NAMES])
COMMON: dict[str, Any] = {"dataset": 0, "study": "small", "seed": 1, "epochs": 2, "evaluation": {"images": IMAGES}}
IDENTITY: dict[str, Any] = {**COMMON, "method": "Identity", "lr": 0.05}
CROSS_ENTROPY: dict[str, Any] = {**COMMON, "method": "CrossEntropy", "lr": 0.05}
CONTRASTIVE: dict[str, Any] = {**CROSS_ENTROPY, "method": "Contrastive", "weight": 0.1}
MODULE: dict[str, Any] = {"level": "auto", "search_epochs": 1, "lr": 0.05, "weight": 0.1}
SYSTEM: dict[str, Any] = {**COMMON, "method": "ModularSystem", "backbone": {"lr": 0.05}, "module": MODULE}
AUTOENCODER: dict[str, Any] = {"lr": 0.1}
IMG_SPACE: dict[str, Any] = {**COMMON, "method": "ImgSpaceIdentity", "autoencoder": AUTOENCODER, "classifier": {"lr": 0.05}}
IMG_SPACE_JOINT: dict[str, Any] = {**IMG_SPACE, "method": "ImgSpaceJoint", "classifier": {"lr": 0.02}}
ROUTER: dict[str, Any] = {"lr": 0.05}
# What makes a system with parts one that is told less.
ROUTINGS: tuple[dict[str, Any], ...] = ({"routing": "wrong_order"}, {"routing": "random"}, {"routing": "router", "router": ROUTER})
PARAMETERS = {"ModularSystem": (70, 70), "ImgSpaceIdentity": (90, 90), "ImgSpaceJoint": (90, 90)}

Correct = Callable[[int, int], NDArray[np.bool_]]


@pytest.fixture
def png_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures without their PDF, which takes longer and is looked at by the tests of box_plot, paired and report."""
    monkeypatch.setattr(style, "FORMATS", {"png": {}})


def epoch_row(stage: str, epoch: int, classifies: bool = True) -> dict[str, Any]:
    """A row of metrics.jsonl whose values follow from its place."""
    means = {"train_loss": 2.0 / epoch, "valid_loss": 3.0 / epoch}
    means |= {"train_accuracy": 0.1 * epoch, "valid_accuracy": 0.2 * epoch} if classifies else {}
    return {"stage": stage, "epoch": epoch, **means, "lr": 0.5**epoch, "images_per_second": 1.0, "seconds": 1.0}


def write_run(
    experiment: Experiment, rows: Sequence[Mapping[str, Any]] = (), facts: Mapping[str, Any] | None = None, finish: bool = True
) -> None:
    with open_run(experiment) as run:
        run.start("checksum")
        for row in rows:
            run.log(dict(row))
        if finish:
            run.finish(dict(facts or {}))


def write_evaluation(experiment: Experiment, correct_cn: NDArray[np.bool_], monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation with chosen outcomes, put together by the suite's own `merge`."""
    trained, total = PARAMETERS.get(experiment.method, (10, 10))
    monkeypatch.setattr(train.evaluation, "load_systems", lambda *_: [SimpleNamespace(trained_parameters=trained, total_parameters=total)])
    path = train.evaluation.part_path(experiment, 0)
    path.parent.mkdir(parents=True)
    buffer = io.BytesIO()
    np.savez(buffer, correct=correct_cn, loss=np.arange(len(correct_cn), dtype=np.float64))
    path.write_bytes(buffer.getvalue())
    train.evaluation.merge(experiment, datasets.load(experiment.dataset))


def right_up_to(n: int) -> NDArray[np.bool_]:
    """Every image right on compositions of at most n corruptions, and wrong on all others."""
    return np.repeat((n >= COUNTS)[:, None], IMAGES, axis=1)


def random_bits(seed: int, rate: float = 0.5) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((len(NAMES), IMAGES)) < rate


def print_summary(study: "Study", capsys: pytest.CaptureFixture, path: Path, *more: str) -> str:
    """What the summary of a list prints."""
    assert main(["summary", str(path), *more]) == 0
    return capsys.readouterr().out


def cells(text: str, label: str) -> list[str]:
    """The cells of the line of a printed table that starts with a label."""
    return next(line for line in text.splitlines() if line.startswith(label)).removeprefix(label).split()


class Study:
    """Writes runs and lists into a temporary folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.runs = folder / "runs"
        monkeypatch.setenv("PALIMPSEST_RUNS", str(self.runs))

    def list_of(self, *entries: Mapping[str, Any], name: str = "small") -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump([dict(entry) for entry in entries]))
        return path

    def trained(self, entry: Mapping[str, Any], correct_cn: NDArray[np.bool_] | None = None) -> Experiment:
        """A finished run, evaluated where outcomes are given; image_steps and the like count its epochs."""
        experiment = build(entry)
        if isinstance(experiment, Trained):
            self.part(experiment)
        else:
            write_run(experiment)
            for part in prerequisites(experiment).values():
                if not (part.directory / "done.json").exists():
                    self.part(part)
        if correct_cn is not None:
            write_evaluation(experiment, correct_cn, self.monkeypatch)
        return experiment

    def part(self, experiment: Any) -> None:
        stages = [("train", experiment.epochs)]
        if experiment.method == "Module":
            stages = [("search-level0", 1), ("search-level1", 1), *stages]
        classifies = experiment.method != "Autoencoder"
        rows = [epoch_row(stage, epoch, classifies) for stage, epochs in stages for epoch in range(1, epochs + 1)]
        facts = {
            "parameters": 10,
            "image_steps": 100 * len(rows),
            "search_trials": len(stages) - 1,
            "best_epoch": 2,
            "train_seconds": 1.5 * len(rows),
        }
        write_run(experiment, rows, facts)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    return Study(tmp_path, monkeypatch)
