from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import info_dicts
from plots.__main__ import FIGURES, main, name_folder, name_overrides
from plots.results import Sources
from plots.style import lighter, method_colour, variant_styles
from tests.plots.conftest import (
    CROSS_ENTROPY,
    DATASET,
    IDENTITY,
    IMAGES,
    NAMES,
    SYSTEM,
    Study,
    cells,
    print_summary,
    random_bits,
    right_up_to,
)
from train.build import build
from train.lists import override


def test_figures_with_overrides_have_folders_of_their_own(study: Study, capsys: pytest.CaptureFixture) -> None:
    path = study.list_of(CROSS_ENTROPY)
    drawn = []
    several: list[dict[str, Any]] = [{}, {"lr": 0.5, "epochs": 1}, {"evaluation.severities": {"Contrast": 5}}]
    for number, overrides in enumerate(several):
        entry = override(CROSS_ENTROPY, overrides)
        study.trained(entry, random_bits(number))
        out = print_summary(study, capsys, path, *(f"--{key}={value}" for key, value in overrides.items()))
        drawn.append(Path(out.splitlines()[-1]))
    assert [file.parent.name for file in drawn] == ["small", "small-epochs=1-lr=0.5", "small-evaluation.severities=_Contrast_5_"]
    assert len({file.with_suffix(".csv").read_bytes() for file in drawn}) == 3


def test_many_overrides_are_cut_and_told_apart() -> None:
    one, other = (name_overrides({"module.lr": 0.1, "study": "word/" * 20 + end}) for end in "ab")
    assert one != other
    assert len(one) == len(other) == 60
    assert one.startswith("module.lr=0.1-study=word_word_")
    assert "/" not in one


def test_several_sources_are_drawn_together(study: Study, capsys: pytest.CaptureFixture) -> None:
    study.trained({**SYSTEM, "backbone": {"lr": 0.05}}, right_up_to(3))
    study.trained(CROSS_ENTROPY, right_up_to(1))
    one, two = study.list_of({**SYSTEM, "seed": 5}, name="modules"), study.list_of({**CROSS_ENTROPY, "seed": 6}, name="crossentropy")
    # The override concerns both lists; a source may follow an option.
    out = print_summary(study, capsys, one, "--seed=1", str(two), str(one))
    assert cells(out, "ModularSystem - CrossEntropy, two or more corruptions")[:3] == ["160", str(IMAGES), "1"]
    assert "Missing: nothing" in out
    folder = study.runs / "figures" / "modules+crossentropy-seed=1"
    assert Path(out.splitlines()[-1]) == folder / f"box_plot-{DATASET}.png"
    drawn = pd.read_csv(folder / f"box_plot-{DATASET}.csv")
    assert drawn["seeds"].unique().tolist() == [1]
    assert drawn.groupby("system").size().to_dict() == {"CrossEntropy": len(NAMES), "ModularSystem": len(NAMES)}


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_of_nothing_say_so(study: Study, capsys: pytest.CaptureFixture, figure: str) -> None:
    code = main([figure, str(study.list_of(IDENTITY))])
    captured = capsys.readouterr()
    assert build(IDENTITY).name in captured.out + captured.err
    assert (code, captured.out) == (2, "")
    line = captured.err.splitlines()[-1]
    assert line.startswith(f"error: {figure}: no finished run")
    assert figure == "training_curves" or ("of 1 run in " in line and "repeat them here" in line)
    assert not (study.runs / "figures").exists()


def test_error_lines(study: Study, capsys: pytest.CaptureFixture) -> None:
    study.trained(IDENTITY, random_bits(0))
    path = study.list_of(IDENTITY)
    (study.folder / "file").write_text("")
    for arguments, words in (
        (["box_plot", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["summary", str(path), "--epoch=1"], "unknown key"),
        (["summary", str(path), "extra"], "extra: cannot be read as a list"),
        (["summary", str(path), "--lr", "0.1"], "unknown argument '--lr'"),
        (["summary", str(path), str(study.runs), "--lr=0.1"], "overrides go with a list"),
        (["box_plot", str(path), "--out", str(study.folder / "file")], "choose another folder with --out"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert words in error


def test_every_method_has_a_colour_of_its_own_and_variants_differ() -> None:
    colours = [method_colour(method) for method in info_dicts.METHODS.values()]
    assert len(set(colours)) == len(colours)
    styles = variant_styles(["CrossEntropy", "ModularSystem", "CrossEntropy"])
    assert len(set(styles)) == 3
    assert styles[0] == (method_colour("CrossEntropy").lower(), "")
    assert lighter("#000000", 0.5) == "#808080"


def test_folders_of_figures_say_which_runs(tmp_path: Path) -> None:
    def of(*named: str, **more: Any) -> str:
        return name_folder(Sources(named, more))

    assert of("configs/demo.yaml", "configs/modules.yml") == "demo+modules"
    # A dot in a run's name is no ending.
    assert of("runs/D/Identity-lr0.05-s1-0123456789ab") == "Identity-lr0.05-s1-0123456789ab"
    assert of("runs/D/Identity-lr0.05-s1-0123456789ab/wandb") == "Identity-lr0.05-s1-0123456789ab-wandb"
    assert of("me/project") == "project"
    many = [of(*(f"runs/Identity-lr0.05-s{seed}" for seed in range(start, 90))) for start in (0, 1)]
    assert len(set(many)) == 2
    assert all(len(name) == 120 for name in many)
