"""Runs of teachers and students whose tests on counterfactual sets are made up."""

from typing import Any

from tests.plots.conftest import write_run
from train.build import build

SETS = ("P", "B", "BR", "BoxOnly")
TEACHER: dict[str, Any] = {"dataset": 0, "study": "cues", "seed": 1, "epochs": 3, "method": "Teacher", "lr": 0.1}
STUDENT: dict[str, Any] = TEACHER | {"method": "Student", "loss": "Base"}


def student(mechanism: str, teacher: str, loss: str = "Base", seed: int = 1, **more: Any) -> dict[str, Any]:
    taught = {"teacher": {"mechanism": teacher, "lr": 0.1}} if teacher else {}
    return STUDENT | {"mechanism": mechanism, "loss": loss, "seed": seed} | taught | more


def rows_of(entry: dict[str, Any], accuracy: dict[str, float], kl: float = 0.5) -> list[dict[str, Any]]:
    """Rows of three epochs of four iterations with a test every two; the second epoch is kept, later ones are better by a hundredth."""
    rows: list[dict[str, Any]] = []

    def found(shift: float) -> dict[str, Any]:
        own = {name: {"accuracy": accuracy[name] + shift} for name in SETS}
        if "teacher" in entry:
            for name in SETS:
                own[name] |= {"teacher_accuracy": 0.5, "teacher_kl": kl, "teacher_agreement": accuracy[name] / 2}
        return own

    for epoch in (1, 2, 3):
        for iteration in (4 * epoch - 4, 4 * epoch - 2):
            rows.append({"stage": "train", "epoch": epoch, "iteration": iteration, "counterfactual": found(-0.2)})
        curves = {"train_loss": 1.0, "valid_loss": 1.0, "lr": 0.1, "images_per_second": 1.0, "seconds": 1.0, "left": 3 - epoch}
        rows.append({"stage": "train", "epoch": epoch, "iteration": 4 * epoch, "counterfactual": found(0.01 * (epoch - 2)), **curves})
    return rows


def write(entry: dict[str, Any], accuracy: dict[str, float], kl: float = 0.5) -> None:
    experiment = build(entry)
    write_run(
        experiment,
        rows_of(entry, accuracy, kl),
        {"parameters": 10, "best_epoch": 2, "image_steps": 9, "search_trials": 0, "train_seconds": 1.0},
    )


def accuracies(*values: float) -> dict[str, float]:
    return dict(zip(SETS, values))
