"""The committed sweep files: they are what `python -m configs` writes, as many trials for every method, the paper's choices among them."""

import itertools
import re

import pytest
import yaml

import info_dicts
from configs import __main__ as command
from configs.__main__ import FOLDER, SWEEPS, main
from configs.lists import LISTS
from configs.recipes import PUBLISHED, RECIPES
from configs.searches import PAPER_SEARCHES, SEARCHES, sweep_text
from train.entry import SEEDS
from train.lists import parse
from train.sweep.entry import entry_of, experiments_of
from train.sweep.file import read_mapping, read_sweep

FILES = {name: read_sweep(SWEEPS / f"{name}.yaml") for name in PAPER_SEARCHES}
# The committed search of each method of the paper, after its data set's name, and the one that it rests on.
CHAINS = {
    "CrossEntropy": ["crossentropy"],
    "Contrastive": ["contrastive"],
    "ModularSystem": ["step_two_modular", "step_one_backbone"],
    "ImgSpaceJoint": ["step_two_imgspace_joint", "step_one_autoencoders"],
    "ImgSpaceIdentity": ["step_two_imgspace_identity", "step_one_autoencoders"],
}


def constant(sweep, key):
    """The value of a parameter that is not searched."""
    assert key not in sweep.searched
    return sweep.points()[0][key]


def prerequisites(sweep):
    """The names of the searches whose winners a search starts from, by the part that they are."""
    found = {key: re.fullmatch(r"runs/sweeps/(\w+)/best\.yaml", str(value)) for key, value in sweep.points()[0].items()}
    return {key: match[1] for key, match in found.items() if match}


def test_the_committed_files_are_those_that_are_written(tmp_path, monkeypatch, capsys):
    assert {path.name for path in SWEEPS.iterdir()} == {f"{name}.yaml" for name in SEARCHES}
    for folder in ("sweeps", "representation"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(command, "SWEEPS", tmp_path / "sweeps")
    assert main([]) == 0
    written = sorted(tmp_path.rglob("*.yaml"))
    assert sorted(capsys.readouterr().out.splitlines()) == [str(path) for path in written]
    names = {path.relative_to(tmp_path).with_suffix("").as_posix().removeprefix("sweeps/") for path in written}
    assert names == {*LISTS, *SEARCHES}
    for path in written:
        assert path.read_text() == (FOLDER / path.relative_to(tmp_path)).read_text(), f"{path.name}: write it again with: python -m configs"


def test_a_varied_list_does_not_take_a_sweep_files_place(capsys):
    name, before = "demo_step_one", (SWEEPS / "demo_step_one.yaml").read_text()
    assert main(["demo", "--seed=1", "--out", str(SWEEPS / f"{name}.yaml")]) == 2
    assert "--out must name a file of your own" in capsys.readouterr().err
    assert (SWEEPS / f"{name}.yaml").read_text() == before == sweep_text(name)


def test_there_is_a_file_for_every_method_and_data_set_of_the_paper():
    systems = {str(method) for method in info_dicts.METHODS.values() if "oracle" in method.facts} - {"Identity"}
    assert set(CHAINS) == systems - {"Router"}
    expected = {f"{dataset.lower()}_{step}" for dataset in PUBLISHED for step in itertools.chain(*CHAINS.values())}
    assert set(PAPER_SEARCHES) == expected | {"demo_step_one", "demo_step_two"}


@pytest.mark.parametrize("dataset", PUBLISHED)
@pytest.mark.parametrize("method", CHAINS)
def test_every_method_has_twelve_trials(method, dataset):
    last, *before = [FILES[f"{dataset.lower()}_{step}"] for step in CHAINS[method]]
    assert list(prerequisites(last).values()) == [sweep.name for sweep in before]
    assert sum(len(sweep.points()) for sweep in (last, *before)) == 12
    assert all(sweep.trials == len(sweep.points()) for sweep in (last, *before))
    assert constant(last, "method") == method
    assert {constant(sweep, "dataset") for sweep in (last, *before)} == {dataset}


@pytest.mark.parametrize("name", PAPER_SEARCHES)
def test_a_file_is_a_search_of_its_name(name):
    sweep = FILES[name]
    assert (sweep.name, sweep.raw["project"], sweep.method) == (name, "palimpsest", "grid")
    assert sweep.command == ("python", "-m", "train.sweep", "trial", "${args}")
    assert constant(sweep, "seed") == 48121620
    assert constant(sweep, "seed") not in SEEDS
    hashes = [tuple(e.hash for e in experiments_of(entry_of(values, missing_ok=True))) for values in sweep.points()]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("name", PAPER_SEARCHES)
def test_a_search_selects_as_the_paper_does(name):
    sweep = FILES[name]
    metrics = {"Identity": ("selection/clean_accuracy", "maximize"), "Autoencoder": ("selection/mse", "minimize")}
    expected = metrics.get(constant(sweep, "method"), ("selection/elementals_accuracy", "maximize"))
    assert (sweep.metric.name, sweep.metric.goal) == expected
    assert sweep.early_terminate is None


@pytest.mark.parametrize("name", PAPER_SEARCHES)
def test_a_prerequisite_is_the_winner_of_a_committed_search(name):
    found = prerequisites(FILES[name])
    assert bool(found) == ("step_two" in name)
    for part, first in found.items():
        before = FILES[first]
        assert constant(before, "dataset") == constant(FILES[name], "dataset")
        assert constant(before, "method") == {"backbone": "Identity", "autoencoder": "Autoencoder"}[part]
        assert "corruption" not in before.parameters
        assert not prerequisites(before)


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_the_published_values_are_among_the_points(dataset):
    recipe = RECIPES[dataset]
    expected = {
        "step_one_backbone": {"lr": recipe["backbone"]["lr"]},
        "step_one_autoencoders": {"lr": recipe["autoencoder"]["lr"]},
        "step_two_modular": {f"module.{key}": recipe["module"][key] for key in ("level", "lr", "weight")},
        "step_two_imgspace_joint": {"classifier.lr": recipe["classifier"]["lr"]},
        "step_two_imgspace_identity": {"classifier.lr": recipe["classifier"]["lr"]},
        "crossentropy": {"lr": recipe["crossentropy"]["lr"]},
        "contrastive": recipe["contrastive"],
    }
    for step, values in expected.items():
        sweep = FILES[f"{dataset.lower()}_{step}"]
        assert sum(values.items() <= point.items() for point in sweep.points()) == 1
        assert set(sweep.searched) <= set(values)
        # They are inside of the range, not where a better one might lie beyond it.
        for key in set(sweep.searched) & {"lr", "module.lr", "classifier.lr"}:
            found = [point[key] for point in sweep.points()]
            assert min(found) < values[key] < max(found)
        # The header says them, as the point has them.
        said = [f"{key.rpartition('.')[2]} {value:g}" for key, value in values.items() if key in sweep.searched]
        assert f"({', '.join(said)})" in (SWEEPS / f"{sweep.name}.yaml").read_text().splitlines()[2]


@pytest.mark.parametrize("name", PAPER_SEARCHES)
def test_small_learning_rates_come_first(name):
    sweep = FILES[name]
    (key,) = [key for key in sweep.searched if key.rpartition(".")[2] == "lr"]
    lrs = [point[key] for point in sweep.points()]
    assert lrs == sorted(lrs)
    assert len(set(lrs)) >= 3


@pytest.mark.parametrize("name", PAPER_SEARCHES)
def test_wandb_reads_the_same_numbers(name):
    """W&B reads YAML 1.1, in which 1e-3 is a word."""
    text = (SWEEPS / f"{name}.yaml").read_text()
    assert yaml.safe_load(text) == parse(text) == read_mapping(SWEEPS / f"{name}.yaml")
    assert all(isinstance(point[key], float) for point in FILES[name].points() for key in FILES[name].searched)


@pytest.mark.parametrize("name", PAPER_SEARCHES)
def test_three_header_lines_say_command_time_and_numbers(name):
    first, second, third, empty = (SWEEPS / f"{name}.yaml").read_text().splitlines()[:4]
    steps = [*prerequisites(FILES[name]).values(), name]
    assert first == f"# bash submit_scripts/submit_sweep.sh {' '.join(f'configs/sweeps/{step}.yaml' for step in steps)}"
    assert re.search(r"\d.* min\b", second)
    assert f"{len(FILES[name].points())} trials" in second
    assert third.startswith("# Expect")
    assert not empty
    assert max(map(len, (first, second, third))) < 400


def test_the_demo_is_a_search_of_two_steps_on_data_that_is_there():
    one, two = FILES["demo_step_one"], FILES["demo_step_two"]
    assert prerequisites(two) == {"backbone": "demo_step_one"}
    assert (constant(one, "method"), constant(two, "method")) == ("Identity", "ModularSystem")
    assert {constant(sweep, "dataset") for sweep in (one, two)} == {"FashionMNIST-mini"}
    assert min(one.trials, two.trials) >= 6
