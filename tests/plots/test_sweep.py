from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from errors import RunError
from plots import sweep
from plots.__main__ import main
from plots.sweep import importance, scale_of
from tests.sweep.searches import one_step
from tests.wandb_server.calls import new_sweep
from tests.wandb_server.server import WandbServer
from train.sweep.best import Outcome, Result
from train.sweep.entry import entry_of, experiments_of
from train.sweep.file import read_sweep
from train.sweep.local import study_folder
from train.sweep.metrics import CLEAN, Metric
from train.sweep.trials import begin_trial

VALUES = [0.1, 0.4, 0.3, None, 0.2, 0.05]


def searched(folder: Path) -> Path:
    """A search whose fourth trial diverged."""
    path = one_step(folder)
    found = read_sweep(path)
    for number, (values, value) in enumerate(zip(found.points() or [], VALUES)):
        entry = entry_of(values)
        trial = begin_trial(study_folder(found) / str(number), values, entry, experiments_of(entry))
        trial.end("diverged" if value is None else "done", {} if value is None else {CLEAN: value})
    return path


def test_trials_of_a_search_that_was_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    path = searched(tmp_path)
    assert main(["sweep", str(path)]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [str(file.relative_to(tmp_path / "runs")) for file in paths] == [
        f"figures/one/sweep-one.{suffix}" for suffix in ("csv", "pdf", "png")
    ]
    table = pd.read_csv(paths[0])
    assert table["state"].tolist() == ["diverged" if value is None else "done" for value in VALUES]
    np.testing.assert_array_equal(table["value"], np.array(VALUES, dtype=float))
    keys = [key for key in table.columns if key not in ("trial", "state", "metric", "value")]
    assert table[keys].to_dict("records") == [{key: point[key] for key in keys} for point in read_sweep(path).points() or []]
    with Image.open(paths[2]) as image:
        assert image.size == (1400, 520)
    for arguments, words in ((["sweep", str(path), "--lr=1"], "takes no overrides"), (["sweep", str(path), str(path)], "takes one sweep"),
                             (["sweep", str(path), "--group", "x"], "takes one sweep"), (["sweep", str(tmp_path)], "is a folder")):  # fmt: skip
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert words in error


def test_the_same_from_a_server(tmp_path: Path, online: WandbServer, capsys: pytest.CaptureFixture) -> None:
    path = searched(tmp_path)
    found = read_sweep(path)
    name = new_sweep(online, found.raw)
    for number, (values, value) in enumerate(zip(found.points() or [], VALUES)):
        run = online.store.new_run("local", "palimpsest", f"run{number}")
        config = values | {"entry": entry_of(values), "experiments": []}
        run |= {
            "sweep": name,
            "state": "finished" if value is not None else "failed",
            "config": {key: {"value": own} for key, own in config.items()},
        }
        run["summary"] = {"state": "diverged"} if value is None else {"state": "done", CLEAN: value}
        online.store.save_run(run)
    tables = []
    for source in (str(path), f"local/palimpsest/{name}"):
        assert main(["sweep", source, "--out", str(tmp_path / "out")]) == 0
        tables.append(pd.read_csv(capsys.readouterr().out.splitlines()[0]).drop(columns="trial"))
    pd.testing.assert_frame_equal(tables[0], tables[1], check_dtype=False)


def outcome(points: list[dict[str, Any]], values: list[float | None], goal: Any = "maximize") -> Outcome:
    results = [
        Result(str(n), "done" if value is not None else "failed", point, {}, value) for n, (point, value) in enumerate(zip(points, values))
    ]
    return Outcome("made", "made.yaml", Metric(CLEAN, goal), results)


def made(seed: int, n: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [
        {"lr": float(10 ** generator.uniform(-4, 0)), "weight": float(generator.uniform(0, 1)), "size": int(generator.choice([32, 64])), "kind": str(generator.choice(["a", "b"]))}
        for _ in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize("decisive", ["lr", "weight", "size", "kind"])
def test_the_parameter_that_decides_is_the_important_one(decisive: str, goal: str) -> None:
    points = made(0, 60)
    score = {
        "lr": lambda p: np.log10(p["lr"]),
        "weight": lambda p: p["weight"],
        "size": lambda p: p["size"],
        "kind": lambda p: p["kind"] == "a",
    }[decisive]
    values: list[float | None] = [float(score(point)) for point in points]
    shares = importance(outcome(points, values, goal), list(points[0]))
    assert next(iter(shares)) == decisive
    assert sum(share.value for share in shares.values()) == pytest.approx(1)
    assert shares[decisive].value > max(0.4, shares[decisive].chance)
    assert all(share.value < share.chance for key, share in shares.items() if key != decisive)


def test_no_importance_of_few_trials_or_of_one_parameter() -> None:
    points = made(1, 12)
    values: list[float | None] = [point["lr"] for point in points]
    assert importance(outcome(points, values), list(points[0]))
    assert importance(outcome(points, [*values[:9], None, None, None]), list(points[0])) == {}
    assert importance(outcome(points, values), ["lr"]) == {}
    few = outcome(points[:5], values[:5])
    figure = sweep.draw_trials(few, list(points[0]), {})
    assert "no importance: it takes 10 finished trials, there are 5" in figure.get_suptitle()


def test_scales_are_logarithmic_where_numbers_span_decades() -> None:
    assert scale_of([0.1, 0.001, 0.01]).places == pytest.approx({0.001: 0.0, 0.01: 0.5, 0.1: 1.0})
    assert scale_of([1, 2, 5]).places == pytest.approx({1: 0.0, 2: 0.25, 5: 1.0})
    assert scale_of([-1, 99]).places == pytest.approx({-1: 0.0, 99: 1.0})
    assert scale_of(["b", "a", "b"]).places == {"a": 0.25, "b": 0.75}
    assert scale_of([7]).places == {7: 0.5}
    many = scale_of(list(range(100)))
    assert len(many.ticks) == 5
    assert many.ticks[0] == (0.0, "0")


def test_lines_end_where_trials_did_and_the_best_stands_out() -> None:
    points = [{"lr": 0.1, "kind": "a"}, {"lr": 1.0, "kind": "b"}, {"lr": 0.01, "kind": None}]
    figure = sweep.draw_trials(outcome(points, [0.5, None, 0.75], "minimize"), ["lr", "kind"], {})
    (axes,) = figure.axes
    lines = [
        (len(line.get_xdata()), line.get_linestyle(), line.get_color())
        for line in axes.lines
        if len(line.get_xdata()) == 3 or line.get_linestyle() == ":"
    ]
    assert lines[0][:2] == (2, ":")
    assert lines[-1] == (3, "-", sweep.BEST)
    assert [color for *_, color in lines].count(sweep.BEST) == 1
    assert list(axes.lines[2].get_ydata())[-1] == 0.0


def test_a_search_without_a_result_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "read_outcome", lambda source: outcome(made(0, 2), [None, None]))
    with pytest.raises(RunError, match="none of 2 trials is done"):
        sweep.draw("made.yaml", {}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_important_depends_on_what_is_good() -> None:
    """The best trials are those with a large lr, the worst those with a large weight."""
    points = made(2, 200)
    values: list[float | None] = [point["lr"] if point["lr"] > 0.3 else -point["weight"] for point in points]
    keys = ["lr", "weight"]
    assert next(iter(importance(outcome(points, values, "maximize"), keys))) == "lr"
    assert next(iter(importance(outcome(points, values, "minimize"), keys))) == "weight"


def test_of_noise_no_parameter_stands_out() -> None:
    """Shares of noise are large where trials are few; in 20 searches of two parameters each of them beats the mark about twice."""
    beaten = {"lr": 0, "weight": 0}
    for seed in range(20):
        points = made(seed, 14)
        noise: list[float | None] = list(np.random.default_rng(100 + seed).random(14).tolist())
        for key, share in importance(outcome(points, noise), ["lr", "weight"]).items():
            beaten[key] += share.value > share.chance
    assert all(count <= 5 for count in beaten.values())
