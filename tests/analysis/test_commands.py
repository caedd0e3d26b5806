"""What a user types: analyses of a list's systems, what is there already, and the mistakes."""

import ast
import os
import subprocess
import sys

import h5py
import pytest
import yaml

import info_dicts
from analysis.__main__ import main
from analysis.analyses import ANALYSES, UNDER_CUES
from analysis.options import OPTIONS
from tests.analysis.systems import entry, finish
from train.analyses import of_layers
from train.build import build
from train.entry import ROOT
from train.run import locked

SMALL = {"evaluation": {"images": 20, "compositions": ["ID", "CO", "IN", "IN-CO"]}}
ENTRIES = [
    entry("CrossEntropy", **SMALL),
    {
        "dataset": 0,
        "seed": 3,
        "epochs": 2,
        "method": "Module",
        "corruption": "Swirl",
        "level": 1,
        "lr": 0.05,
        "weight": 0.5,
        "backbone": {"lr": 0.05},
    },
    entry("ModularSystem", **SMALL),
    entry("Contrastive", **SMALL),
]


@pytest.fixture
def config(tmp_path, small_runs):
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump(ENTRIES))
    for number in (0, 2):
        finish(build(ENTRIES[number]))
    return path


def output(number, key, analysis="invariance", suffix=".h5"):
    return build(ENTRIES[number]).directory / "analyses" / analysis / f"{key}{suffix}"


def key():
    return build(ENTRIES[0]).testing.key


def test_the_menu_and_the_analyses_have_the_same_names():
    assert [str(name) for name in info_dicts.ANALYSES.values() if not name.facts] == list(ANALYSES)
    assert [str(name) for name in info_dicts.ANALYSES.values() if name.facts.get("cues")] == list(UNDER_CUES)
    layered = [str(name) for name in info_dicts.ANALYSES.values() if name.facts.get("layers")]
    assert layered == list(OPTIONS)
    assert all(callable(of_layers(name)) for name in layered)


def test_finished_systems_are_analysed_once(config, capsys):
    assert main(["invariance", str(config)]) == 0
    printed = capsys.readouterr().out
    assert "entry 3: Contrastive" in printed
    assert "left out, it is new" in printed
    assert printed.count(": done, in ") == 2
    before = [output(number, key()).stat().st_mtime_ns for number in (0, 2)]
    with h5py.File(output(2, key())) as file:
        assert file.attrs["n"] == 20
        assert file["mean"].shape == (4, 10, 128)
    left = output(0, key()).parent / ".x.h5.1.tmp"
    left.write_text("")
    assert main(["invariance", str(config)]) == 0
    assert capsys.readouterr().out.count("done already") == 2
    assert [output(number, key()).stat().st_mtime_ns for number in (0, 2)] == before
    # What a killed process left is taken away where something is to be computed.
    output(0, key()).unlink()
    assert main(["invariance", str(config)]) == 0
    assert not left.exists()
    assert output(0, key()).exists()


def test_fewer_images_are_kept_beside_the_others(config, capsys):
    assert main(["invariance", str(config), "--index", "0", "--images", "10"]) == 0
    smaller = key().replace("-20", "-10")
    assert output(0, smaller).exists()
    assert not output(0, key()).exists()
    assert not output(2, smaller).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--index", "1"], "entry 1: Module-Swirl-L1-lr0.05-w0.5"),
        (["--index", "3"], "no finished system to analyse; train them with: python -m train"),
        (["--index", "9"], "has entries 0 to 3"),
        (["--images", "7"], "evaluation.images: must be a multiple of the 10 classes"),
        (["--images", "many"], "evaluation.images: must be a whole number"),
        (["--seed=8"], "--seed=8"),
        (["more"], "unknown argument 'more'"),
    ],
)
def test_mistakes_are_one_line(config, capsys, arguments, words):
    assert main(["invariance", str(config), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert words.split("-L1")[0] in printed.err


def test_deephys_takes_single_corruptions_and_what_a_killed_process_left_goes(config, capsys):
    folder = output(2, key(), "deephys", "")
    (folder.parent / f".{folder.name}.1.tmp").mkdir(parents=True)
    assert main(["deephys", str(config), "--index", "2"]) == 0
    assert f"done, in {folder}" in capsys.readouterr().out
    assert list(folder.parent.iterdir()) == [folder]
    assert {path.stem for path in folder.glob("*.model")} == {"Contrast", "Invert"}
    assert main(["deephys", str(config), "--index", "2"]) == 0
    assert "done already" in capsys.readouterr().out
    assert main(["deephys", str(config), "--index", "2", "--evaluation.compositions=CO-IN"]) == 2
    assert "has neither Identity nor a single corruption" in capsys.readouterr().err


def test_who_else_is_at_it_is_named(config, capsys):
    with locked(build(ENTRIES[0]).directory / "analyses"):
        assert main(["invariance", str(config)]) == 2
    assert "held by" in capsys.readouterr().err


def test_unknown_analyses_are_told_without_torch(config):
    ended = subprocess.run(
        [sys.executable, "-m", "analysis", "satiation", str(config)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "'satiation' is unknown; did you mean 'saturation'? allowed: " in ended.stderr
    code = f"import sys, analysis.__main__ as a; code = a.main(['invariance', {str(config)!r}, '--index', '9']); assert 'torch' not in sys.modules; sys.exit(code)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ.copy(), capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr


def test_analyses_stand_below_train_and_plots():
    """The command alone is above them: it reads lists and runs."""
    files = [path for path in (ROOT / "analysis").glob("*.py") if path.name != "__main__.py"]
    assert len(files) > 4
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {"train", "plots", "configs"} & {name.split(".")[0] for name in names}, f"{path.name} imports {names}"
