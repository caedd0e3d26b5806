"""`python -m train.sweep check`: a line for each file, and what a user should know before a search begins."""

import pytest
import yaml

from errors import InputError
from tests.sweep.searches import one_step, two_step, write
from train.sweep.check import check


def edit(path, **more):
    raw = yaml.safe_load(path.read_text())
    raw = {key: value for key, value in (raw | more).items() if value is not None}
    path.write_text(yaml.safe_dump(raw))
    return path


def test_a_right_file_is_one_line(tmp_path, capsys):
    check([str(one_step(tmp_path))])
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{tmp_path}/one.yaml: one: grid, 6 trials, maximize selection/clean_accuracy"]


def test_wrong_files_do_not_hide_right_ones(tmp_path, capsys):
    wrong = [edit(one_step(tmp_path, "typo"), metrik=1), edit(one_step(tmp_path, "method"), method="gird")]
    with pytest.raises(InputError, match="2 of 3 files are wrong"):
        check([str(path) for path in (wrong[0], one_step(tmp_path), wrong[1])])
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] == "WRONG" for line in said] == [True, False, True]


@pytest.mark.parametrize(
    ("command", "got"),
    [
        (["python", "-m", "train.sweep", "trail", "${args}"], "-m train.sweep trail"),
        (["python", "-m", "train.swep", "trial", "${args}"], "-m train.swep trial"),
        (["python", "-m", "trian.sweep", "trial", "${args}"], "-m trian.sweep trial"),
    ],
)
def test_a_command_that_runs_no_trial_is_wrong(tmp_path, capsys, command, got):
    with pytest.raises(InputError, match="is wrong"):
        check([str(edit(one_step(tmp_path), command=command))])
    assert f'command: must run a trial, as [python, -m, train.sweep, trial, "${{args}}"], got {got}' in capsys.readouterr().out


def test_what_is_perhaps_not_meant_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PALIMPSEST_DATA", str(tmp_path / "data"))
    words = one_step(tmp_path)
    words.write_text(words.read_text().replace("- 0.1\n", "- 1e-1\n"))
    exponents = {"distribution": "log_uniform", "min": 0.01, "max": 0.1}
    fixed = {key: {"value": value} for key, value in {"dataset": "MNIST", "method": "Identity"}.items()}
    random = write(tmp_path, "random", "valid/loss", fixed | {"lr": exponents}, method="random", run_cap=3)
    check([str(words), str(edit(two_step(tmp_path), project=None)), str(random)])
    said = capsys.readouterr().out
    assert "note: W&B takes numbers such as 1e-2 for words" in said
    assert "note: project: missing; `wandb sweep` takes the folder's name then" in said
    assert "note: parameters.backbone: " in said
    assert "best.yaml: not there; it is the winner of another search" in said
    assert "log_uniform takes exponents, so these are values from 1.01 to 1.105" in said
    assert "python -m data prepare MNIST" in said
