import io
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from errors import InputError
from plots import results
from plots.records import rebuild
from plots.results import find, load, main
from plots.table import COLUMNS, name_systems
from tests.plots.conftest import (
    COUNTS,
    CROSS_ENTROPY,
    DATASET,
    IDENTITY,
    IMG_SPACE,
    IMG_SPACE_JOINT,
    MODULE,
    NAMES,
    ROUTER,
    ROUTINGS,
    SYSTEM,
    Study,
    random_bits,
    write_evaluation,
    write_run,
)
from train.build import build
from train.entry import ROOT
from train.evaluations import correctness

HEADER = "study,dataset,method,model,seed,run,split,epoch,step,layer,composition,condition,n_corruptions,metric,value"
FIXED_MODULE = {"level": 1, "lr": 0.01, "weight": 1}
LEVELS = {"Contrast": 1, "Swirl": 3}


def test_compositions_have_their_accuracies_names_and_counts(study: Study) -> None:
    correct = random_bits(0)
    experiment = study.trained(CROSS_ENTROPY, correct)
    table = load(study.list_of(CROSS_ENTROPY))
    assert ",".join(table.columns) == HEADER
    assert [str(dtype) for dtype in table.dtypes] == list(COLUMNS.values())
    tested = table[table["composition"] != ""]
    accuracy, loss = (tested[tested["metric"] == metric] for metric in ("accuracy", "loss"))
    assert list(accuracy["composition"]) == ["-".join(names) for names in NAMES]
    assert list(accuracy["n_corruptions"]) == list(COUNTS)
    assert accuracy.loc[accuracy["composition"] == "Identity", "n_corruptions"].tolist() == [0]
    np.testing.assert_array_equal(accuracy["value"], correct.mean(axis=1))
    np.testing.assert_allclose(loss["value"], np.arange(len(NAMES)) / correct.shape[1])
    for column, value in {
        "study": "small", "dataset": DATASET, "method": "CrossEntropy", "model": "SmallNet", "seed": 1, "run": experiment.name, "split": "test", "condition": "", "layer": "",
    }.items():  # fmt: skip
        assert (tested[column] == value).all(), column
    assert tested["epoch"].isna().all()
    assert tested["step"].isna().all()


def test_packed_bits_come_back(study: Study) -> None:
    correct = random_bits(1)
    experiment = study.trained(CROSS_ENTROPY, correct)
    names, unpacked, ids = correctness(experiment)
    assert names == tuple("-".join(composition) for composition in NAMES)
    np.testing.assert_array_equal(unpacked, correct)
    assert unpacked.dtype == bool
    assert len(set(ids)) == correct.shape[1]


def test_curves_of_training_and_level_search(study: Study) -> None:
    entry = {**IDENTITY, "method": "Module", "corruption": "Swirl", "backbone": {"lr": 0.05}, **MODULE}
    study.trained(entry)
    table = load(study.list_of(entry))
    curves = table[table["epoch"].notna()]
    found = [tuple(row) for row in curves[["metric", "split", "layer", "epoch", "step", "value"]].to_numpy().tolist()]
    assert ("search_accuracy", "valid", "1", 1, 1, 0.2) in found
    assert ("search_loss", "train", "0", 1, 0, 2.0) in found
    assert ("loss", "valid", "", 2, 3, 1.5) in found
    assert ("lr", "train", "", 2, 3, 0.25) in found
    assert len(found) == 4 * 5
    run = table[table["epoch"].isna()].set_index("metric")["value"].to_dict()
    assert run == {"trained_parameters": 10, "image_steps": 400, "search_trials": 2, "best_epoch": 2, "train_seconds": 6.0}


def test_a_system_of_parts_has_the_sums_over_its_distinct_parts(study: Study) -> None:
    study.trained(SYSTEM, random_bits(0))
    table = load(study.list_of(SYSTEM, SYSTEM))
    assert table["run"].nunique() == 1
    facts = table[table["composition"] == ""].set_index("metric")["value"].to_dict()
    # The backbone, which all six modules share, has 2 epochs; a module has 2 and 2 of search.
    assert facts == {
        "trained_parameters": 70,
        "total_parameters": 70,
        "image_steps": 100 * (2 + 6 * 4),
        "search_trials": 12,
        "train_seconds": 1.5 * (2 + 6 * 4),
    }


@pytest.mark.parametrize(
    ("entry", "trainings"),
    [
        (IMG_SPACE, 6 + 1),
        (IMG_SPACE_JOINT, 6 + 1),
        # One router more.
        ({**IMG_SPACE, "routing": "router", "router": ROUTER}, 6 + 2),
        ({**IMG_SPACE_JOINT, "routing": "random"}, 6 + 1),
    ],
)
def test_image_space_systems_have_the_sums_over_their_distinct_parts(study: Study, entry: dict[str, Any], trainings: int) -> None:
    study.trained(entry, random_bits(0))
    facts = load(study.list_of(entry)).query("composition == ''").set_index("metric")["value"].to_dict()
    assert facts == {
        "trained_parameters": 90,
        "total_parameters": 90,
        "image_steps": 100 * 2 * trainings,
        "search_trials": 0,
        "train_seconds": 1.5 * 2 * trainings,
    }


def test_an_autoencoder_has_losses_and_no_accuracy(study: Study) -> None:
    entry = {**IDENTITY, "method": "Autoencoder", "corruption": "Swirl"}
    study.trained(entry)
    curves = load(study.list_of(entry)).query("epoch.notna()")
    found = [tuple(row) for row in curves[["metric", "split", "epoch", "value"]].to_numpy().tolist()]
    assert sorted(found) == [
        ("loss", "train", 1, 2.0), ("loss", "train", 2, 1.0), ("loss", "valid", 1, 3.0), ("loss", "valid", 2, 1.5),
        ("lr", "train", 1, 0.5), ("lr", "train", 2, 0.25),
    ]  # fmt: skip


def test_a_sum_over_a_part_that_is_gone_is_left_out(study: Study) -> None:
    system = study.trained(SYSTEM, random_bits(0))
    (system.requires()[-1].directory / "done.json").unlink()
    assert set(load(study.list_of(SYSTEM)).query("composition == ''")["metric"]) == {"trained_parameters", "total_parameters"}


def test_what_is_not_finished_is_named_in_one_line(study: Study, capsys: pytest.CaptureFixture) -> None:
    study.trained(IDENTITY, random_bits(0))
    study.trained(CROSS_ENTROPY)
    new, failed = build({**IDENTITY, "seed": 2}), build({**IDENTITY, "seed": 3})
    write_run(failed, finish=False)
    (failed.directory / "failed.json").write_text('{"error": "the loss is not finite"}')
    table = load(study.list_of(IDENTITY, CROSS_ENTROPY, {**IDENTITY, "seed": 2}, {**IDENTITY, "seed": 3}))
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"{new.name} (new)" in line
    assert f"{failed.name} (failed: the loss is not finite)" in line
    assert f"{build(CROSS_ENTROPY).name} (trained: evaluation test-167-20 missing)" in line
    assert build(IDENTITY).name not in line
    assert set(table["run"]) == {build(IDENTITY).name, build(CROSS_ENTROPY).name}


def test_an_empty_table_has_its_columns(study: Study) -> None:
    table = load(study.list_of(IDENTITY))
    assert ",".join(table.columns) == HEADER
    assert len(table) == 0


def test_overrides_choose_other_runs(study: Study) -> None:
    study.trained({**CROSS_ENTROPY, "lr": 0.5}, random_bits(0))
    path = study.list_of(CROSS_ENTROPY)
    assert load(path).empty
    assert load(path, overrides={"lr": 0.5})["run"].unique().tolist() == [build({**CROSS_ENTROPY, "lr": 0.5}).name]


def test_several_sources_give_equal_runs_once(study: Study, capsys: pytest.CaptureFixture) -> None:
    for entry in (IDENTITY, CROSS_ENTROPY, SYSTEM):
        study.trained(entry, random_bits(0))
    missing = {**IDENTITY, "seed": 9}
    lists = [study.list_of(IDENTITY, CROSS_ENTROPY, missing, name="one"), study.list_of(missing, IDENTITY, SYSTEM, name="two")]
    table = load(*lists)
    error = capsys.readouterr().err
    assert error.count("\n") == error.count(build(missing).name) == 1
    assert error.startswith(", ".join(map(str, lists)))
    pd.testing.assert_frame_equal(table, load(study.list_of(IDENTITY, CROSS_ENTROPY, SYSTEM)))
    # The runs' folder holds the same runs, and the modules that stand in no list.
    both = load(study.list_of(CROSS_ENTROPY), study.runs)
    assert both["run"].nunique() == 2 + 1 + 6
    assert len(both.query("composition != '' and metric == 'accuracy'")) == 3 * len(NAMES)


def test_overrides_concern_every_list(study: Study) -> None:
    for entry in (CROSS_ENTROPY, IDENTITY):
        study.trained({**entry, "lr": 0.5}, random_bits(0))
    lists = [study.list_of(CROSS_ENTROPY, name="one"), study.list_of(IDENTITY, name="two")]
    assert load(*lists).empty
    assert set(load(*lists, overrides={"lr": 0.5})["method"]) == {"CrossEntropy", "Identity"}


def test_of_several_sources_a_run_has_every_severity_and_one_evaluation_of_each(study: Study) -> None:
    plain = study.trained(IDENTITY, random_bits(0))
    fewer = {**IDENTITY, "evaluation": {"images": 10}}
    harder = {**IDENTITY, "evaluation": {"images": 20, "severities": {"Contrast": 5}}}
    write_evaluation(build(fewer), random_bits(1)[:, :10], study.monkeypatch)
    write_evaluation(build(harder), random_bits(2), study.monkeypatch)
    lists = [study.list_of(entry, name=name) for entry, name in ((IDENTITY, "plain"), (harder, "harder"), (fewer, "fewer"))]
    tested = load(*lists).query("composition != '' and metric == 'accuracy'")
    assert set(tested["run"]) == {plain.name}
    np.testing.assert_array_equal(tested[tested["condition"] == ""]["value"], random_bits(1)[:, :10].mean(axis=1))
    np.testing.assert_array_equal(tested[tested["condition"] == "Contrast severity 5"]["value"], random_bits(2).mean(axis=1))
    assert len(tested) == 2 * len(NAMES)


def test_conditions_tell_variants_and_severities(study: Study) -> None:
    independent = {**CROSS_ENTROPY, "batching": "independent"}
    harder = {**CROSS_ENTROPY, "evaluation": {"images": 20, "severities": {"GaussianBlur": 4, "Contrast": 2}}}
    study.trained(independent, random_bits(0))
    study.trained(harder, random_bits(1))
    table = load(study.list_of(independent, harder))
    assert set(table["condition"]) == {"independent batches", "GaussianBlur severity 4"}


def test_labels_tell_what_a_system_goes_by(study: Study) -> None:
    entries = [{**entry, **routing} for entry in (SYSTEM, IMG_SPACE) for routing in ({}, *ROUTINGS)]
    for entry in entries:
        study.trained(entry, random_bits(0))
    labels = name_systems(load(study.list_of(*entries)))
    assert labels.unique().tolist() == [
        "ModularSystem", "ModularSystem (wrong order)", "ModularSystem (random modules)", "ModularSystem (router)",
        "ImgSpaceIdentity", "ImgSpaceIdentity (wrong order)", "ImgSpaceIdentity (random autoencoders)", "ImgSpaceIdentity (router)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "entry",
    [
        IDENTITY,
        {**CROSS_ENTROPY, "corruptions": ["Swirl", "Contrast"], "severities": {"Contrast": 4}},
        {**CROSS_ENTROPY, "match": {**SYSTEM, "seed": 0}},
        {**CROSS_ENTROPY, "method": "Contrastive", "weight": 0.5, "levels": [1, 1, 2, 2, 3, 3]},
        {**IDENTITY, "method": "Module", "corruption": "Swirl", "backbone": {"lr": 1.0, "epochs": 200, "seed": 0}, **FIXED_MODULE},
        {**SYSTEM, "order": "random", "module": FIXED_MODULE, "severities": {"GaussianBlur": 5, "Swirl": 1}},
        {**SYSTEM, "backbone": {"lr": 0.1, "epochs": 200, "batch_size": 256, "augmentation": "CropFlip"}, "epochs": 3},
        {**SYSTEM, **ROUTINGS[2], "corruptions": ["Swirl", "Contrast"], "module": {**FIXED_MODULE, "level": LEVELS, "kernels": "fitted"}},
        {**IDENTITY, "method": "Autoencoder", "corruption": "Contrast", "severities": {"Contrast": 4}},
        {**IDENTITY, "method": "JointClassifier", "autoencoder": {"lr": 0.1, "epochs": 7}, "severities": {"Contrast": 4}},
        {**IDENTITY, "method": "Router", "corruptions": ["Swirl", "Contrast"]},
        {**IMG_SPACE, "order": "reverse", "severities": {"GaussianBlur": 5}},
        {**IMG_SPACE, "routing": "router", "router": {**ROUTER, "seed": 0}, "corruptions": ["Swirl", "Contrast"]},
        {**IMG_SPACE_JOINT, **ROUTINGS[1], "corruptions": ["Swirl", "Contrast"], "severities": {"Contrast": 4}},
    ],
)
def test_an_experiment_is_built_again_from_its_canonical_form(entry: dict[str, Any]) -> None:
    experiment = build(entry)
    again = rebuild(json.loads(json.dumps(experiment.canonical())), study="small")
    assert again.hash == experiment.hash
    assert again.name == experiment.name
    assert again.study == experiment.study


def test_a_folder_of_runs_gives_the_same_rows_as_its_list_wherever_it_lies(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    study.trained(IDENTITY, random_bits(0))
    study.trained(SYSTEM, random_bits(1))
    listed = load(study.list_of(IDENTITY, SYSTEM))
    moved = study.folder / "elsewhere"
    study.runs.rename(moved)
    monkeypatch.delenv("PALIMPSEST_RUNS")
    order = ["run", "metric", "composition", "step"]
    folder = load(moved)
    of_list = folder[folder["method"] != "Module"].sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(of_list, listed.sort_values(order, ignore_index=True))
    assert folder[folder["method"] == "Module"]["run"].nunique() == 6
    one = load(moved / DATASET / build(SYSTEM).name)
    pd.testing.assert_frame_equal(one, listed[listed["method"] == "ModularSystem"].reset_index(drop=True))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("newest", [10, 20])
def test_of_the_evaluations_in_a_folder_the_largest_counts_and_severities_are_apart(
    study: Study, capsys: pytest.CaptureFixture, newest: int
) -> None:
    experiment = study.trained(IDENTITY, random_bits(0))
    write_evaluation(build({**IDENTITY, "evaluation": {"images": 10}}), random_bits(1)[:, :10], study.monkeypatch)
    harder = build({**IDENTITY, "evaluation": {"images": 20, "severities": {"Contrast": 5}}})
    write_evaluation(harder, random_bits(2), study.monkeypatch)
    for images in (10, 20):
        os.utime(experiment.directory / "evaluation" / f"test-167-{images}.h5", (1, 2 if images == newest else 1))
    tested = load(study.runs).query("composition != '' and metric == 'accuracy'")
    np.testing.assert_array_equal(tested[tested["condition"] == ""]["value"], random_bits(0).mean(axis=1))
    np.testing.assert_array_equal(tested[tested["condition"] == "Contrast severity 5"]["value"], random_bits(2).mean(axis=1))
    assert len(tested) == 2 * len(NAMES)
    assert capsys.readouterr().err == f"{study.runs}: 1 smaller evaluation left out\n"


@pytest.mark.parametrize("newest", [0, 1])
def test_of_equally_large_evaluations_in_a_folder_the_newest_counts(study: Study, newest: int) -> None:
    entries = [{**IDENTITY, "evaluation": {"images": 20, "compositions": [name]}} for name in ("CO-SW", "SW-CO")]
    experiment = study.trained(entries[0], random_bits(0)[:1])
    write_evaluation(build(entries[1]), random_bits(1)[:1], study.monkeypatch)
    for number, entry in enumerate(entries):
        os.utime(experiment.directory / "evaluation" / f"{build(entry).testing.key}.h5", (1, 2 if number == newest else 1))
    tested = load(study.runs).query("composition != '' and metric == 'accuracy'")
    assert tested["composition"].tolist() == [("Contrast-Swirl", "Swirl-Contrast")[newest]]


def test_of_many_missing_runs_five_are_named(study: Study, capsys: pytest.CaptureFixture) -> None:
    load(study.list_of(*({**IDENTITY, "seed": seed} for seed in range(7))))
    line = capsys.readouterr().err
    assert line.count("(new)") == 5
    assert line.endswith("(new); and 2 more\n")


def test_runs_of_a_folder_that_cannot_be_used_are_named(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(results, "NAMED", 9)
    stale, unknown, damaged, torn = (study.trained({**IDENTITY, "seed": seed}, random_bits(0)) for seed in range(4))
    for experiment, key, value in ((stale, "recipes", {"Identity": 0}), (unknown, "canonical", {"dataset": 0, "method": 99})):
        path = experiment.directory / "experiment.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    (damaged.directory / "experiment.json").write_text("{")
    (torn.directory / "evaluation" / "test-167-20.h5").write_bytes(b"no HDF5")
    write_run(build({**IDENTITY, "seed": 9}), finish=False)
    failed = build({**IDENTITY, "seed": 10})
    write_run(failed, finish=False)
    (failed.directory / "failed.json").write_text(json.dumps({"error": f"{failed.name}: the loss is not finite", "diverged": True}))
    table = load(study.runs)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    for words in (
        f"{stale.name} (stale",
        f"{unknown.name} (not readable",
        f"{damaged.name}/experiment.json: damaged",
        "h5: damaged",
        "(not finished)",
        f"{failed.name} (the loss is not finite)",
    ):
        assert words in line
    assert set(table["run"]) == {torn.name}
    assert (table["composition"] == "").all()


def test_labels_tell_systems_apart_and_join_seeds(study: Study) -> None:
    entries = [
        CROSS_ENTROPY, {**CROSS_ENTROPY, "seed": 2}, {**CROSS_ENTROPY, "batching": "independent"},
        IDENTITY, {**IDENTITY, "seed": 2, "lr": 0.5}, {**SYSTEM, "epochs": 3}, SYSTEM,
    ]  # fmt: skip
    for entry in entries:
        study.trained(entry, random_bits(0))
    table = load(study.list_of(*entries))
    table["label"] = name_systems(table)
    labels = [table.loc[table["run"] == build(entry).name, "label"].unique().tolist() for entry in entries]
    assert labels[:5] == [
        ["CrossEntropy"],
        ["CrossEntropy"],
        ["CrossEntropy (independent batches)"],
        ["Identity lr0.05"],
        ["Identity lr0.5"],
    ]
    # Nothing in the names of the last two tells them apart but the hash.
    assert labels[5] != labels[6]
    assert all(build(entry).hash[:6] in label for entry, (label,) in zip(entries[5:], labels[5:]))


def test_csv_on_stdout(study: Study, capsys: pytest.CaptureFixture) -> None:
    study.trained(CROSS_ENTROPY, random_bits(0))
    path = study.list_of({**CROSS_ENTROPY, "lr": 9.0})
    assert main([str(path), "--lr=0.05"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == HEADER
    table = pd.read_csv(io.StringIO(out), keep_default_na=False)
    again = load(path, overrides={"lr": 0.05})
    assert len(table) == len(again)
    np.testing.assert_allclose(table["value"], again["value"], rtol=0, atol=0)
    row = table[table["composition"] == "Identity"].iloc[0]
    assert (row["epoch"], row["step"], row["n_corruptions"]) == ("", "", "0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["."], "holds no run"),
        ([".", "--lr=1"], "overrides go with a list"),
        (["small.yaml", "--lr"], "unknown argument '--lr'"),
        (["small.yaml", "--lr=x"], "entry 0: lr"),
        (["small.yaml", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["small.yaml", ".", "--lr=1"], ".: overrides go with a list"),
        (["small.yaml", "--lr", "0.1"], "unknown argument '--lr'"),
    ],
)
def test_error_lines(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], words: str
) -> None:
    study.list_of(CROSS_ENTROPY)
    monkeypatch.chdir(study.folder)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


def test_a_damaged_evaluation_of_a_list_is_an_error_with_its_path(study: Study) -> None:
    experiment = study.trained(CROSS_ENTROPY, random_bits(0))
    path = experiment.directory / "evaluation" / "test-167-20.h5"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"test-167-20\.h5: damaged"):
        load(study.list_of(CROSS_ENTROPY))
    path.unlink()
    with pytest.raises(InputError, match=r"test-167-20\.h5: missing"):
        correctness(experiment)
    assert find(study.list_of(CROSS_ENTROPY)).missing


def test_a_reader_who_leaves_is_no_error_and_nothing_loads_torch(study: Study) -> None:
    study.trained(CROSS_ENTROPY, random_bits(0))
    code = (
        "import sys, io, os\nread, write = os.pipe()\nos.close(read)\nos.dup2(write, 1)\nimport plots.__main__\nfrom plots.results import main\n"
        f"code = main([{str(study.list_of(CROSS_ENTROPY))!r}])\nassert 'torch' not in sys.modules\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
