"""The winner of a search, its list and the table of trials; the metrics of a trial from its files."""

import argparse
import csv
import io

import h5py
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import info_dicts
from errors import InputError, RunError
from tests.sweep.searches import one_step, two_step
from train.build import build, experiment_class
from train.lists import read
from train.run import write_json
from train.sweep.best import Outcome, Result, csv_text, finite, lean, list_text, read_outcome, read_seeds, unseeded, varied, write_best
from train.sweep.entry import entry_of, experiments_of
from train.sweep.file import read_sweep
from train.sweep.local import study_folder
from train.sweep.metrics import CLEAN, ELEMENTALS, MSE, Metric, measure, metrics_of
from train.sweep.trials import begin_trial

ACCURACY, LOSS = Metric(CLEAN, "maximize"), Metric(MSE, "minimize")
SYSTEM = {
    "dataset": "FashionMNIST-mini",
    "method": "ModularSystem",
    "seed": 7,
    "epochs": 5,
    "backbone": {"dataset": "FashionMNIST-mini", "model": "SmallNet", "seed": 7, "epochs": 3, "lr": 0.1},
    "module": {"level": 3, "lr": 0.01, "weight": 1, "epochs": 5},
    "evaluation": {"compositions": "elementals", "split": "valid"},
}


def result(number, value, **values):
    return Result(str(number), "done" if value is not None else "failed", values, {"method": "Identity"}, value)


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.sampled_from([0.1, 0.2, 0.3])), st.integers(0, 9)), min_size=1),
    st.sampled_from([ACCURACY, LOSS]),
)
def test_the_winner_is_the_best_and_of_equals_the_same_whoever_finished_first(trials, metric):
    results = [result(number, value, lr=lr) for number, (value, lr) in enumerate(trials)]
    outcome, mirrored = (Outcome("search", "file", metric, order) for order in (results, results[::-1]))
    values = [value for value, _ in trials if value is not None]
    if not values:
        with pytest.raises(RunError, match="so there is no best one"):
            outcome.winner()
        return
    best = max(values) if metric.goal == "maximize" else min(values)
    assert outcome.winner().value == best
    assert outcome.winner().values == mirrored.winner().values
    assert outcome.winner().values["lr"] == min(lr for value, lr in trials if value == best)


def test_whole_numbers_that_a_server_returns_change_no_winner():
    ours = Outcome("search", "file", ACCURACY, [result(0, 0.5, lr=1.0), result(1, 0.5, lr=0.5), result(2, 0.5, lr=2.0)])
    theirs = Outcome("search", "sweep", ACCURACY, [result(0, 0.5, lr=1), result(1, 0.5, lr=0.5), result(2, 0.5, lr=2)])
    assert ours.winner().id == theirs.winner().id == "1"


def test_what_is_not_finite_is_no_value():
    assert [finite(value) for value in (0.5, 1, float("nan"), float("inf"), "NaN", None)] == [0.5, 1.0, None, None, None, None]


def test_a_lean_entry_is_the_same_experiment_and_says_nothing_twice():
    slim = lean(SYSTEM)
    assert build(slim).hash == build(SYSTEM).hash
    assert "evaluation" not in slim
    assert slim["backbone"] == {"epochs": 3, "lr": 0.1}
    assert slim["module"] == {"level": 3, "lr": 0.01, "weight": 1}


def test_the_list_of_a_system_trains_every_part_anew_for_every_seed(tmp_path):
    outcome = Outcome("search", "file", ACCURACY, [Result("0", "done", {"module.lr": 0.01}, SYSTEM, 0.5)])
    path = tmp_path / "list.yaml"
    path.write_text(list_text(outcome, path, [1, 2]))
    systems = [entry.experiment for entry in read(path)]
    assert [system.seed for system in systems] == [1, 2]
    for system in systems:
        assert {part.seed for part in system.requires()} == {system.seed}
        assert (system.module.lr, system.backbone.lr, system.backbone.epochs) == (0.01, 0.1, 3)
        # Evaluated on all 167 compositions of test images, as any other list.
        assert (system.testing.compositions, system.testing.split) == ("167", "test")


def test_the_list_of_autoencoders_has_all_six(tmp_path):
    entry = {"dataset": "FashionMNIST-mini", "method": "Autoencoder", "lr": 0.1, "seed": 7}
    outcome = Outcome("search", "file", LOSS, [Result("0", "done", {"lr": 0.1}, entry, 0.5)])
    path = tmp_path / "list.yaml"
    path.write_text(list_text(outcome, path, [1, 2, 3]))
    assert len({entry.experiment.hash for entry in read(path)}) == 18


def test_the_winner_can_be_named_by_another_search(tmp_path, monkeypatch):
    """From the trials of one step to the entry of the next, without training."""
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    one, two = read_sweep(one_step(tmp_path)), read_sweep(two_step(tmp_path))
    for number, values in enumerate(one.points()):
        entry = entry_of(values)
        begin_trial(study_folder(one) / str(number), values, entry, experiments_of(entry)).end(
            "done", {CLEAN: [0.1, 0.4, 0.3, 0.4, 0.2, 0][number]}
        )
    write_best([str(one.path)], None, [1, 2])
    [system] = experiments_of(entry_of(two.points()[0]))
    assert system.backbone.hash == experiments_of(entry_of(one.points()[1]))[0].hash
    [entry] = yaml.safe_load((tmp_path / "runs" / "sweeps" / "one" / "best.yaml").read_text())
    assert entry == {"dataset": "FashionMNIST-mini", "method": "Identity", "seed": 3, "epochs": 3, "lr": 0.001}
    # Another winner, another search: the trials of the step that rests on it are not those of before.
    before = study_folder(two)
    best = tmp_path / "runs" / "sweeps" / "one" / "best.yaml"
    best.write_text(best.read_text().replace("lr: 0.001", "lr: 0.01"))
    assert study_folder(two) != before


def test_a_winner_before_the_end_is_called_provisional(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    path = one_step(tmp_path)
    sweep = read_sweep(path)
    for number, state in enumerate(["done", "diverged", "stopped"]):
        values = sweep.points()[number]
        entry = entry_of(values)
        trial = begin_trial(study_folder(sweep) / str(number), values, entry, experiments_of(entry))
        trial.end(state, {CLEAN: 0.3} if state == "done" else {})
    write_best([str(path)], None, [1])
    assert "PROVISIONAL: 2 of 6 trials have come to a result" in capsys.readouterr().out
    for name in ("best.yaml", "list.yaml"):
        assert "PROVISIONAL: 2 of 6" in (tmp_path / "runs" / "sweeps" / "one" / name).read_text()
    # Another search of that name is not this one.
    path.write_text(path.read_text().replace("- 0.3\n", "- 0.35\n"))
    with pytest.raises(InputError, match=r"was not run as it is now \(but with other contents: local-"):
        write_best([str(path)], None, [1])


def test_sources_that_do_not_belong_together_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    paths = [one_step(tmp_path, name) for name in ("one", "other")]
    for path in paths:
        sweep = read_sweep(path)
        entry = entry_of(sweep.points()[0])
        begin_trial(study_folder(sweep) / "0", sweep.points()[0], entry, experiments_of(entry)).end("done", {CLEAN: 0.3})
    with pytest.raises(InputError, match=r"does not rest on .*one.yaml: no trial names runs/sweeps/one/best.yaml"):
        write_best([str(path) for path in paths], None, [1])
    assert not (tmp_path / "runs" / "sweeps" / "one" / "best.yaml").exists()


def test_a_source_that_is_nothing_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is a folder; name the file of its search"):
        read_outcome(str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="a/b/c: no such file; and as a W&B sweep: W&B: no API key"):
        read_outcome("a/b/c")
    with pytest.raises(InputError, match="nothing: no such file; and as a W&B sweep: must be a W&B sweep as ENTITY/PROJECT/ID"):
        read_outcome("nothing")


def test_the_table_holds_every_trial_of_every_search():
    searches = [
        Outcome("one", "file", ACCURACY, [result(0, 0.5, lr=0.1), result(1, None, lr=1e6)]),
        Outcome("two", "file", ACCURACY, [result(0, 0.25, **{"module.lr": 0.01, "backbone": "runs/x.yaml"})]),
    ]
    rows = list(csv.DictReader(io.StringIO(csv_text(searches))))
    assert [(row["search"], row["trial"], row["state"], row["value"]) for row in rows] == [
        ("one", "0", "done", "0.5"), ("one", "1", "failed", ""), ("two", "0", "done", "0.25"),
    ]  # fmt: skip
    assert [row["lr"] for row in rows] == ["0.1", "1000000.0", ""]
    assert (rows[2]["module.lr"], rows[2]["backbone"]) == ("0.01", "runs/x.yaml")
    assert varied(searches[0]) == ["lr"]


def test_no_seed_is_left():
    assert "seed" not in str(unseeded(SYSTEM))


@pytest.mark.parametrize(("text", "seeds"), [("1", (1,)), ("3,1,2", (3, 1, 2))])
def test_seeds_of_a_command_line(text, seeds):
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "1,,2", "a", "1,1", "-1", "1.5"])
def test_wrong_seeds(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be"):
        read_seeds(text)


@pytest.mark.parametrize("method", info_dicts.METHODS.values())
def test_every_method_has_a_metric_that_never_sees_a_composition(method):
    metrics = metrics_of(experiment_class(method))
    assert metrics
    assert not [name for name in metrics if "composition" in name or "test" in name]
    assert all((metric.goal == "maximize") == ("accuracy" in name) for name, metric in metrics.items())


def test_metrics_are_means_over_what_they_say(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path))
    [system] = experiments_of(entry_of({"dataset": 0, "method": "CrossEntropy", "lr": 0.1}))
    (system.directory / "evaluation").mkdir(parents=True)
    write_json(system.directory / "done.json", {"valid_loss": 2.0, "valid_accuracy": 0.75})
    with h5py.File(system.directory / "evaluation" / "valid-elementals.h5", "w") as file:
        file["composition"] = ["Identity", "Contrast", "GaussianBlur", "ImpulseNoise", "Invert", "Rotate90", "Swirl"]
        file["accuracy"] = [1.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
        file["loss"], file["ids"] = [0.0] * 7, range(100)
        file.attrs.update(n=100, split="valid", severities="{}", trained_parameters=10, total_parameters=10)
    assert measure([system]) == pytest.approx({ELEMENTALS: 0.25, CLEAN: 1.0, "valid/accuracy": 0.75, "valid/loss": 2.0})
    parts = experiments_of(entry_of({"dataset": 0, "method": "Autoencoder", "lr": 0.1}))
    for number, part in enumerate(parts):
        part.directory.mkdir(parents=True)
        write_json(part.directory / "done.json", {"valid_loss": float(number)})
    assert measure(parts) == {MSE: 2.5}
