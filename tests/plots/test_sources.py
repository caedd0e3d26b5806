"""The same rows from run directories, from W&B's offline files and from a W&B server: real client, loopback server."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from errors import InputError, RunError
from plots import pull as pulling
from plots.logged import Wanted
from plots.mechanisms import points
from plots.offline import read_file, read_files, wandb_files
from plots.pull import place
from plots.pulled import read_pulled
from plots.results import find, load
from tests.plots.conftest import CROSS_ENTROPY, IDENTITY, MODULE, NAMES, SYSTEM, Study, random_bits, write_evaluation, write_run
from tests.plots.cued import TEACHER, accuracies, student, write
from tests.wandb_server.server import WandbServer
from train import tracking
from train.build import build
from train.entry import Experiment
from train.facts import prerequisites
from train.subject import ExperimentSubject, run_id
from train.sync import main as sync

PROJECT = "local/palimpsest"
ORDER = ["run", "metric", "split", "composition", "layer", "epoch"]
PART = {**IDENTITY, "method": "Module", "corruption": "Swirl", "backbone": {"lr": 0.05}, **MODULE}
AUTOENCODER = {**IDENTITY, "method": "Autoencoder", "corruption": "Swirl"}
HARDER = {**CROSS_ENTROPY, "evaluation": {"images": 20, "severities": {"GaussianBlur": 4}}}


@pytest.fixture
def remote(study: Study, online: WandbServer, monkeypatch: pytest.MonkeyPatch) -> WandbServer:
    """The server, with the study's runs where the study has them."""
    monkeypatch.setenv("PALIMPSEST_RUNS", str(study.runs))
    return online


def track(experiment: Experiment, mode: str, monkeypatch: pytest.MonkeyPatch, tags: tuple[str, ...] = ()) -> None:
    """What a training tells W&B at its end."""
    monkeypatch.setenv("WANDB_MODE", mode)
    tracking.Tracker(ExperimentSubject(experiment, tags)).finish()


def assert_same(table: pd.DataFrame, other: pd.DataFrame) -> None:
    first, second = (one.sort_values(ORDER, ignore_index=True) for one in (table, other))
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers at the top of a row; the client's own reader flattens what lies deeper."""
    return {key: value for key, value in values.items() if isinstance(value, int | float) and "." not in key}


def make(study: Study) -> tuple[Path, list[Experiment]]:
    """A study's list, and its experiments with what they rest on."""
    entries = [IDENTITY, HARDER, PART, AUTOENCODER, SYSTEM]
    for number, entry in enumerate((IDENTITY, HARDER, SYSTEM)):
        study.trained(entry, random_bits(number))
    for entry in (PART, AUTOENCODER):
        study.trained(entry)
    experiments = {e.hash: e for entry in entries for e in [build(entry), *prerequisites(build(entry)).values()]}
    return study.list_of(*entries), list(experiments.values())


def test_local_offline_and_server_tables_are_equal(
    study: Study, remote: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path, experiments = make(study)
    local = load(path)
    assert local["run"].nunique() == 5
    for experiment in experiments:
        track(experiment, "offline", monkeypatch)
    files = study.folder / "files"
    for folder in study.runs.rglob("offline-run-*"):
        shutil.copytree(folder, files / folder.name)
    for experiment in experiments:
        track(experiment, "online", monkeypatch, ("mine",))
    assert len(remote.runs()) == len(experiments)
    listed = set(local["run"])
    for source in (files, PROJECT):
        table = load(source)
        assert table["run"].nunique() == len(experiments)
        assert_same(table[table["run"].isin(listed)], local)
    # The whole folder of runs has the parts, too; but of them, evaluations' own fields are not known.
    assert_same(load(PROJECT), load(files))
    shutil.rmtree(study.runs / "FashionMNIST-mini")
    for source in (str(files), PROJECT):
        assert_same(load(path, origin=source), local)
    assert_same(load(PROJECT, wanted=Wanted(group="FashionMNIST-mini small", tags=("mine",)))[lambda t: t["run"].isin(listed)], local)
    assert capsys.readouterr().err == ""
    assert remote.unknown <= {"artifact"}


def test_tests_of_teachers_and_students_are_equal_wherever_they_are_read(
    study: Study, remote: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [student("P", "B"), student("B", "", "Labels"), TEACHER | {"mechanism": "B"}]
    for number, entry in enumerate(entries):
        write(entry, accuracies(0.5, 0.6, 0.4 - number / 7, 0.3), kl=1 / 3)
    path = study.list_of(*entries)
    local, drawn = load(path), points(find(path))
    for mode in ("offline", "online"):
        for entry in entries:
            track(build(entry), mode, monkeypatch)
    files = study.folder / "files"
    for folder in study.runs.rglob("offline-run-*"):
        shutil.copytree(folder, files / folder.name)
    for source in (str(files), PROJECT):
        first, second = (table.sort_values([*ORDER, "step"], ignore_index=True) for table in (local, load(source)))
        pd.testing.assert_frame_equal(first, second, check_exact=True)
        keys = ["run", "iteration", "exact", "set"]
        first, second = (table.sort_values(keys, ignore_index=True) for table in (drawn, points(find(source))))
        pd.testing.assert_frame_equal(first, second, check_exact=True)
        assert second["kept"].astype(bool).sum() == 3 * 4


def test_runs_are_pulled_once_and_again_where_they_changed(study: Study, remote: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "SETTLED", 0)
    made = [study.trained({**IDENTITY, "seed": seed}, random_bits(seed)) for seed in range(3)]
    for experiment in made[:2]:
        track(experiment, "online", monkeypatch)
    before = load(PROJECT)
    assert before["run"].nunique() == 2
    remote.counts.clear()
    assert_same(load(PROJECT), before)
    # Nothing but the light listing was asked for.
    assert remote.counts["query Runs"] == 1
    assert not [name for name in remote.counts if "History" in name]
    track(made[2], "online", monkeypatch)
    remote.counts.clear()
    assert load(PROJECT)["run"].nunique() == 3
    assert remote.counts["query Runs"] == 2
    assert remote.counts["query RunFullHistory"] == 1
    kept = read_pulled(place(PROJECT))
    assert sorted(kept) == sorted(map(run_id, made))
    # A file that is damaged is no loss.
    place(PROJECT).write_bytes(b"no Parquet")
    assert load(PROJECT)["run"].nunique() == 3
    # A run that was deleted there is gone here.
    remote.store.delete_run(remote.run(run_id(made[0]))["id"])
    assert load(PROJECT)["run"].nunique() == 2
    assert sorted(read_pulled(place(PROJECT))) == sorted(map(run_id, made[1:]))


def test_a_run_that_may_still_change_within_the_same_second_is_asked_again(
    study: Study, remote: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    track(study.trained(IDENTITY, random_bits(0)), "online", monkeypatch)
    first = load(PROJECT)
    for settled, asked in ((60, 1), (0, 1), (0, 0)):
        # The last one finds it as it was when it had settled.
        monkeypatch.setattr(pulling, "SETTLED", settled)
        remote.counts.clear()
        assert_same(load(PROJECT), first)
        assert remote.counts["query RunFullHistory"] == asked


def test_a_changed_evaluation_is_pulled_and_old_compositions_do_not_count(
    study: Study, remote: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = study.trained(IDENTITY, random_bits(0))
    track(experiment, "online", monkeypatch)
    assert len(load(PROJECT).query("metric == 'accuracy' and composition != ''")) == len(NAMES)
    fewer = {**IDENTITY, "evaluation": {"images": 20, "compositions": ["CO-SW", "SW"]}}
    write_evaluation(build(fewer), random_bits(1)[:2], monkeypatch)
    track(build(fewer), "online", monkeypatch)
    found = load(PROJECT).query("metric == 'accuracy' and composition != ''")
    assert_same(load(PROJECT), load(study.list_of(fewer)))
    assert found["composition"].tolist() == ["Contrast-Swirl", "Swirl"]
    # The list that asks for all 167 says that they are not there.
    results = find(study.list_of(IDENTITY), origin=PROJECT)
    assert results.missing == (f"{experiment.name} (evaluation test-167-20 missing in {PROJECT})",)


def test_what_a_list_lacks_on_the_server_is_named(
    study: Study, remote: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    entries = [{**IDENTITY, "seed": seed} for seed in range(3)]
    done, failed, absent = (study.trained(entry, random_bits(0)) for entry in entries)
    track(done, "online", monkeypatch)
    (failed.directory / "done.json").unlink()
    write_run(failed, finish=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    tracking.Tracker(ExperimentSubject(failed)).finish(1)
    table = load(study.list_of(*entries), origin=PROJECT)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"{failed.name} (failed in W&B)" in line or f"{failed.name} (not in {PROJECT}, or not finished there)" in line
    assert f"{absent.name} (not in {PROJECT}, or not finished there)" in line
    assert set(table["run"]) == {done.name}
    assert find(PROJECT).missing == (f"{failed.name} (failed in W&B)",)


def test_a_server_that_limits_the_rate_is_asked_again(
    study: Study, remote: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(pulling, "PAUSES", (0, 0))
    track(study.trained(IDENTITY, random_bits(0)), "online", monkeypatch)
    whole = load(PROJECT)
    place(PROJECT).unlink()
    remote.fail(429, "/graphql", times=2)
    assert_same(load(PROJECT), whole)


def test_a_pull_that_is_cut_goes_on_with_what_it_has(study: Study, remote: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "SETTLED", 0)
    made = [study.trained({**IDENTITY, "seed": seed}, random_bits(seed)) for seed in range(4)]
    for experiment in made:
        track(experiment, "online", monkeypatch)
    monkeypatch.setattr(pulling, "PAUSES", ())
    monkeypatch.setattr(pulling, "BATCH", 2)
    contents, calls = pulling.contents, []

    def dies_in_the_second_batch(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            remote.stop()
        return contents(*arguments)

    monkeypatch.setattr(pulling, "contents", dies_in_the_second_batch)
    with pytest.raises(RunError, match="2 of 4 runs are pulled and kept, the same command goes on"):
        load(PROJECT)
    remote.start()
    tracking.teardown()
    monkeypatch.setattr(pulling, "contents", contents)
    remote.counts.clear()
    assert load(PROJECT)["run"].nunique() == 4
    assert remote.counts["query RunFullHistory"] == 2


@pytest.mark.parametrize(
    ("source", "wanted", "words"),
    [
        ("local/nowhere", Wanted(), "local/nowhere: "),
        (PROJECT, Wanted(group="nobody"), f"{PROJECT}: holds no run of group 'nobody'"),
        (PROJECT, Wanted(tags=("one", "two")), "holds no run with tag 'one' with tag 'two'"),
        (f"{PROJECT}/abcdefgh", Wanted(), "holds no run of sweep abcdefgh"),
    ],
)
def test_error_lines_of_a_server(
    study: Study, remote: WandbServer, monkeypatch: pytest.MonkeyPatch, source: str, wanted: Wanted, words: str
) -> None:
    track(study.trained(IDENTITY, random_bits(0)), "online", monkeypatch)
    with pytest.raises(InputError) as raised:
        load(source, wanted=wanted)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_a_key_or_a_server_the_line_says_so(study: Study, remote: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.stop()
    with pytest.raises(InputError, match="does not answer"):
        load(PROJECT)
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(InputError, match="no API key"):
        load(PROJECT)
    with pytest.raises(InputError, match="--group and --tag choose among the runs of a W&B project"):
        load(study.list_of(IDENTITY), wanted=Wanted(group="small"))


def test_an_offline_file_is_read_as_the_client_itself_reads_it(study: Study, remote: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = study.trained(HARDER, random_bits(0))
    track(experiment, "offline", monkeypatch)
    [file] = wandb_files(study.runs)
    run = read_file(file)
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file.parent)]
    told = [json.loads(line) for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()]
    rows = [line["history"]["item"] for line in told if line["type"] == "history"]
    assert list(map(numbers, rows)) == list(map(numbers, run.history))
    assert len(rows) == 4
    command.insert(-2, "--summary")
    summary = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert numbers(summary["summary"]) == numbers(run.summary)
    assert len(numbers(run.summary)) > 2 * len(NAMES)
    assert summary["config"]["identity"] == run.config["identity"]
    assert (run.id, run.state, run.group) == (run_id(experiment), "finished", "FashionMNIST-mini small")


def test_a_torn_file_gives_what_is_whole_and_a_damaged_one_an_error(
    study: Study, remote: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = study.trained(IDENTITY, random_bits(0))
    track(experiment, "offline", monkeypatch)
    [file] = wandb_files(study.runs)
    data = file.read_bytes()
    torn, damaged, foreign = (study.folder / name / "run-x.wandb" for name in ("torn", "damaged", "foreign"))
    for path, content in (
        (torn, data[:-300]),
        (damaged, data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]),
        (foreign, b"something else"),
    ):
        path.parent.mkdir()
        path.write_bytes(content)
    assert read_file(torn).state == "running"
    assert find(torn.parent).missing == (f"{experiment.name} (running in W&B)",)
    with pytest.raises(InputError, match=r"run-x\.wandb: damaged at byte"):
        load(damaged.parent)
    with pytest.raises(InputError, match=r"run-x\.wandb: no W&B file"):
        load(foreign)
    # Of a run that was stopped and gone on with, the files are one run.
    assert [run.state for run in read_files([torn, file])] == ["finished"]


def test_what_was_sent_in_an_older_form_is_sent_again(study: Study, remote: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of before, without losses and facts: the results say what to do, and that mends it."""
    experiment = study.trained(IDENTITY, random_bits(0))
    path = study.list_of(IDENTITY)
    track(experiment, "online", monkeypatch)
    stored = remote.store.run("local", "palimpsest", run_id(experiment))
    for key in [key for key in stored["summary"] if key.startswith(("facts/", "evaluation/"))]:
        del stored["summary"][key]
    del stored["config"]["identity"]
    remote.store.save_run(stored)
    record = experiment.directory / "wandb" / "record.json"
    note = json.loads(record.read_text())
    del note["contents"]["form"]
    record.write_text(json.dumps(note))
    assert "python -m train sync CONFIG" in find(PROJECT).missing[0]
    tracking.teardown()
    environment = dict(os.environ)
    assert sync([str(path)]) == 0
    os.environ.clear()
    os.environ.update(environment)
    assert_same(load(PROJECT), load(path))
