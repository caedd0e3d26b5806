"""What a submission submits, decided from states and the queue alone; frozen lists; the site file. The real Slurm is in tests/slurm."""

import itertools
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import InputError
from train import frozen, slurm, submit, waves
from train.build import build
from train.lists import Entry, plan, ranges, read, select
from train.run import State
from train.site import read_site

LIST = """
- &base {dataset: 0, seed: 1, method: Identity, lr: 0.1}
- {<<: *base, method: Module, corruption: Invert, level: 1, weight: 1, backbone: {lr: 0.1}}
- {dataset: 0, seed: 1, method: ModularSystem, backbone: {lr: 0.1}, module: {level: 1, weight: 1, lr: 0.1}}
- {<<: *base, method: CrossEntropy}
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("PALIMPSEST_SITE", raising=False)
    (tmp_path / "list.yaml").write_text(LIST)
    return tmp_path / "list.yaml"


def planned(path):
    chosen = read(path)
    entries = plan(chosen)
    return entries, {entry.experiment.hash for entry in chosen}


def task(name="t", index=0, state="PENDING"):
    return slurm.Task(7, index, "7", name, state, "Priority")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_waves_hold_what_is_open_after_what_it_needs(data):
    chosen = [Entry(i, build(raw)) for i, raw in enumerate(ENTRIES)]
    entries, asked = plan(chosen), {entry.experiment.hash for entry in chosen}
    names = st.sampled_from(["new", "failed", "stopped", "lost", "trained", "done", "running", "stale"])
    states = {entry.experiment.hash: State(data.draw(names)) for entry in entries}
    queued = {entry.experiment.hash: task() for entry in entries if data.draw(st.booleans())}
    found = waves.remainder(entries, asked, states, queued)
    wave_of = {entry.experiment.hash: number for number, wave in enumerate(found.waves) for entry in wave}
    left_out = {entry.experiment.hash for entry, _ in found.left_out}
    assert all(found.waves)
    for entry in entries:
        key, name = entry.experiment.hash, states[entry.experiment.hash].name
        finished = name == "done" or (name == "trained" and key not in asked)
        needs = [part.hash for part in entry.experiment.requires()]
        assert (key in wave_of) + (key in left_out) == (not finished and key not in queued)
        if key in left_out:
            assert name in ("running", "stale") or any(part in left_out for part in needs)
        if key in wave_of:
            assert wave_of[key] == max((wave_of[part] + 1 for part in needs if part in wave_of), default=0)


def test_prerequisites_that_nobody_asked_for_come_after_the_lists_end(path):
    entries, asked = planned(path)
    found = waves.remainder(entries, asked, {entry.experiment.hash: State("new") for entry in entries}, {})
    assert [sorted(str(e.index) for e in wave) for wave in found.waves] == [["0", "3"], ["1", *["None"] * 5], ["2"]]
    positions = submit.place(found.entries, path)
    assert sorted(positions.values()) == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert all(positions[entry.experiment.hash] == entry.index for entry in found.entries if entry.index is not None)


@given(st.sets(st.integers(0, 60_000), min_size=1, max_size=400), st.sampled_from([8, 1001, 40_000]), st.integers(1, 3))
@settings(deadline=None)
def test_blocks_stay_below_the_highest_index_and_keep_every_task_once(positions, limit, size):
    groups = submit.chunks(list(positions), size)
    assert sorted(itertools.chain(*groups)) == sorted(positions)
    assert all(len(group) <= size for group in groups)
    made = list(submit.blocks(groups, limit))
    assert [group for _, members in made for group in members] == groups
    for offset, members in made:
        indices = [group[0] - offset for group in members]
        assert min(indices) >= 0
        assert max(indices) < limit
        assert len(ranges(indices)) <= submit.LONGEST


def test_many_scattered_indices_are_split_as_sbatch_takes_no_longer_list():
    groups = [[index] for index in range(0, 20_000, 2)]
    made = list(submit.blocks(groups, 40_000))
    assert len(made) > 10
    assert max(len(ranges(group[0] for group in members)) for _, members in made) <= submit.LONGEST


def test_a_frozen_list_makes_the_same_experiments_whatever_becomes_of_the_list(path):
    entries, _ = planned(path)
    frozen.folder().mkdir(parents=True)
    experiments = {number: entry.experiment for number, entry in enumerate(entries)}
    one = frozen.freeze(str(path), experiments, [[0, 1], *[[number] for number in range(2, len(entries))]])
    assert frozen.freeze(str(path), experiments, [[0, 1], *[[number] for number in range(2, len(entries))]]) == one
    assert one.parent == frozen.folder()
    assert one.name.startswith("list-")
    path.unlink()
    assert [entry.experiment for entry in read(one)] == list(experiments.values())
    # An index names a task: all entries that share it.
    assert [entry.index for entry in read(one, indices="0")] == [0, 1]
    assert [entry.index for entry in read(one, indices="2-3")] == [2, 3]
    with pytest.raises(InputError, match="has no task 1, but 0,2-"):
        read(one, indices="1")
    one.write_text(one.read_text()[:-5])
    with pytest.raises(InputError, match="missing or damaged as a frozen list"):
        read(one)


def test_every_committed_list_survives_freezing():
    from pathlib import Path

    for file in Path("configs").glob("*.yaml"):
        for entry in plan(read(file)):
            assert build(json.loads(json.dumps(frozen.dump(entry.experiment)))) == entry.experiment


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-0", 86400), ("1-2:30", 95400), ("1-2:30:15", 95415), ("UNLIMITED", None)],
)
def test_time_limits_as_sbatch_takes_them(limit, seconds):
    assert slurm.seconds(limit) == seconds


@pytest.mark.parametrize("limit", ["", "1h", "1:2:3:4", "-", "1-", "2-1:1:1:1"])
def test_other_time_limits_are_refused(limit):
    with pytest.raises(ValueError, match="is no time limit"):
        slurm.seconds(limit)


def test_the_example_is_a_site_file(path):
    site = read_site(["--partition=long"])
    assert site.path.name == "site.example.sh"
    assert site.options[-1] == "--partition=long"
    assert any(option.startswith("--time=") for option in site.options)


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("SBATCH_OPTIONS=(--time=3) WARN_SECONDS=120 MAX_RESTARTS=1", [], "--time=3 leaves nothing to work in"),
        ("SBATCH_OPTIONS=(--time=24:00:00) WARN_SECONDS=120 MAX_RESTARTS=1", ["-t", "2"], "--time=2 leaves nothing to work in"),
        ("SBATCH_OPTIONS=(--time=soon) WARN_SECONDS=120 MAX_RESTARTS=1", [], "'soon' is no time limit"),
        ("SBATCH_OPTIONS=() MAX_RESTARTS=1", [], "must set SBATCH_OPTIONS"),
        ("WARN_SECONDS=a MAX_RESTARTS=1", [], "must set SBATCH_OPTIONS"),
        ("WARN_SECONDS=60 MAX_RESTARTS=1", ["--array=0-3"], "--array=0-3: set by the submission itself"),
        ("WARN_SECONDS=60 MAX_RESTARTS=1", ["-d", "afterok:1"], "-d: set by the submission itself"),
        ("WARN_SECONDS=60 MAX_RESTARTS=1", ["-J", "x"], "-J: set by the submission itself"),
        ("exit 3", [], "is no site file"),
    ],
)
def test_site_files_and_options_that_cannot_work_are_refused(path, monkeypatch, text, more, said):
    (path.parent / "site.sh").write_text(text.replace(" ", "\n", 0))
    monkeypatch.setenv("PALIMPSEST_SITE", str(path.parent / "site.sh"))
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        read_site(more)


def test_without_sbatch_the_list_runs_here_and_says_so(path, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "sh", "env", "dirname", "realpath", "sed", "cat", "git"):
        (tools / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    environment = os.environ | {"PATH": str(tools), "WANDB_MODE": "disabled"}
    words = ["bash", "submit_array.sh", str(path), "--index", "0,3", "--dry-run"]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "there is no sbatch on this machine, so the list runs here" in ended.stderr
    assert ended.stdout.splitlines()[-1] == "2 to run, 0 done already"


def test_planning_a_submission_loads_no_torch(path):
    code = f"import sys; from train.submit import main; code = main([{str(path)!r}, '--dry-run']); assert 'torch' not in sys.modules; sys.exit(code)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert [line.split(":")[0] for line in ended.stdout.splitlines() if line.startswith("wave")] == ["wave 1", "wave 2", "wave 3"]


def test_indices_are_chosen_by_the_same_words_as_ever():
    assert select("list", 10, ranges([1, 2, 3, 7])) == [1, 2, 3, 7]


ENTRIES = [
    {"dataset": 0, "method": "Identity", "seed": 1, "lr": 0.1},
    {"dataset": 0, "method": "Autoencoder", "corruption": "Invert", "seed": 1, "lr": 0.1},
    {"dataset": 0, "method": "ModularSystem", "seed": 1, "backbone": {"lr": 0.1}, "module": {"level": 1, "weight": 1, "lr": 0.1}},
    {"dataset": 0, "method": "JointClassifier", "seed": 1, "lr": 0.1, "autoencoder": {"lr": 0.1}},
    {"dataset": 0, "method": "Router", "seed": 2, "lr": 0.1},
]


def test_of_several_submissions_the_last_task_counts(path):
    entries, _ = planned(path)
    frozen.folder().mkdir(parents=True)
    experiments = {number: entry.experiment for number, entry in enumerate(entries[:4])}
    pairs = frozen.freeze(str(path), experiments, [[0, 1], [2, 3]])
    single = frozen.freeze(str(path), experiments, [[number] for number in range(4)])
    hashes = [experiment.hash for experiment in experiments.values()]
    assert frozen.last_tasks(hashes) == {}
    frozen.note_submission(7, pairs, 0, [0, 2])
    frozen.note_submission(9, single, 1, [0])
    assert frozen.last_tasks(hashes) == {hashes[0]: "7_0", hashes[1]: "9_0", hashes[2]: "7_2", hashes[3]: "7_2"}
    pairs.unlink()
    assert frozen.last_tasks(hashes) == {hashes[1]: "9_0"}
