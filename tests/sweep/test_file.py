"""The sweep file: what is read, the trials that follow from it and their entries, and what is refused, in one line."""

import copy
import itertools
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import info_dicts
from errors import InputError
from tests.sweep.samples import COMMAND, CONTRASTIVE, LIVE, MODULAR, SWEEPS, edited, sweep, write
from train.build import experiment_class
from train.fields import FieldError
from train.sweep.file import Hyperband, read_sweep, validated
from train.sweep.metrics import metrics_of

ACCURACY = {"name": "selection/elementals_accuracy", "goal": "maximize"}
IDENTITY = {"dataset": {"value": 0}, "method": {"value": "Identity"}, "lr": {"values": [0.1, 0.01]}}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_is_read_as_it_is_written(tmp_path, runs, name):
    raw = SWEEPS[name]
    found = read_sweep(write(tmp_path, raw))
    assert (found.path, found.raw, found.name, found.method) == (tmp_path / "sweep.yaml", raw, "a_search", raw["method"])
    assert (found.metric.name, found.metric.goal) == (raw["metric"]["name"], raw["metric"].get("goal", "minimize"))
    assert found.command == tuple(COMMAND)
    assert found.run_cap == raw.get("run_cap")
    assert (found.early_terminate is None) == ("early_terminate" not in raw)


def test_numbers_are_what_a_user_means(tmp_path):
    text = yaml.safe_dump(sweep(IDENTITY)).replace("- 0.01", "- 1e-2")
    assert "1e-2" in text
    assert read_sweep(write(tmp_path, text)).parameters["lr"].values == [0.1, 0.01]


def test_nested_parameters_become_dotted_and_are_sorted_as_wandb_does(tmp_path, runs):
    found = read_sweep(write(tmp_path, SWEEPS["nested"]))
    assert list(found.parameters) == ["backbone", "dataset", "epochs", "method", "module.level", "module.lr", "module.weight", "seed"]
    assert list(found.searched) == ["epochs", "module.lr", "module.weight", "seed"]


def test_a_grid_has_all_points_and_the_last_name_varies_fastest(tmp_path, runs):
    found = read_sweep(write(tmp_path, SWEEPS["nested"]))
    points = found.points()
    expected = itertools.product([1, 4, 7], [0.01, 0.1], [1, 0.1], [0, 1, 2])
    assert [(point["epochs"], point["module.lr"], point["module.weight"], point["seed"]) for point in points] == list(expected)
    assert all(point["dataset"] == 0 and point["module.level"] == "auto" for point in points)
    assert (len(points), found.trials) == (36, 5)
    assert read_sweep(write(tmp_path, SWEEPS["grid"])).trials == 6


def test_random_trials_depend_on_the_contents_and_the_number_alone(tmp_path):
    first = read_sweep(write(tmp_path, SWEEPS["random"]))
    again = read_sweep(
        write(
            tmp_path, SWEEPS["random"] | {"name": "other", "project": "p", "description": "d", "run_cap": 30, "command": ["x", "${args}"]}
        )
    )
    draws = [first.draw(number) for number in range(50)]
    assert [again.draw(number) for number in reversed(range(50))] == draws[::-1]
    assert (first.trials, again.trials) == (20, 30)
    assert len({draw["lr"] for draw in draws}) == 50
    assert all(1e-4 <= draw["lr"] <= 1 and draw["method"] == "Autoencoder" for draw in draws)


def test_the_hash_is_of_what_decides_the_trials(tmp_path, runs):
    base = SWEEPS["hyperband"]
    same = [{"name": "b"}, {"project": None}, {"command": ["bash", "${args}"]}, {"run_cap": 9}, {"description": "d"}, {"entity": "e"}]
    other = [
        {"method": "bayes"}, {"metric": {"name": "valid/loss"}}, {"early_terminate": None},
        {"early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 2}}, {"parameters": CONTRASTIVE | {"seed": {"value": 1}}},
        {"parameters": CONTRASTIVE | {"lr": {"values": [0.01, 0.1]}}},
    ]  # fmt: skip

    def of(changes):
        return read_sweep(write(tmp_path, {key: value for key, value in (base | changes).items() if value is not None})).hash

    assert {of(changes) for changes in same} == {of({})}
    assert len({of({}), *map(of, other)}) == 7
    nested = {"module": MODULAR["module"], "method": {"value": 4}}
    dotted = {f"module.{key}": value for key, value in MODULAR["module"]["parameters"].items()} | {"method": {"value": 4}}
    rest = {"dataset": {"value": 0}, "backbone.lr": {"value": 1}}
    assert len({validated(tmp_path, sweep(parameters | rest, metric=ACCURACY)).hash for parameters in (nested, dotted)}) == 1


def test_the_hash_and_the_draws_of_a_sweep_never_change(tmp_path):
    """A search goes on after an update only where its hash and its draws are what they were."""
    assert read_sweep(write(tmp_path, SWEEPS["hyperband"])).hash == "db13b718f9cacdfc768be382dc4a999e40c001c384811d9d228b88a0016efecd"
    assert read_sweep(write(tmp_path, SWEEPS["random"])).hash == "6669c09fd3cf6d26f3464c9eabaedaf7ccacd3e3340fc331bce0342ffa5c15d8"
    assert [read_sweep(write(tmp_path, SWEEPS["random"])).draw(number)["lr"] for number in range(2)] == pytest.approx(
        [
            0.00010835565439044968,
            0.008042951827304079,
        ],
        rel=1e-12,
    )


def test_bands_are_those_of_the_hyperband_paper():
    assert Hyperband(max_iter=27, s=2).bands == [3, 9]
    assert Hyperband(max_iter=27, s=9).bands == [1, 3, 9]
    assert Hyperband(max_iter=100, s=3, eta=2.5).bands == [6, 16, 40]
    assert Hyperband(min_iter=2, eta=4).bands[:4] == [2, 8, 32, 128]


GRID, RANDOM, HYPERBAND = SWEEPS["grid"], SWEEPS["random"], SWEEPS["hyperband"]
BAD = [
    (GRID, "name", None, "name: missing; letters, digits"),
    (GRID, "name", "a b", "name: must be letters, digits, .*, got 'a b'"),
    (GRID, "name", "../up", "name: must be letters"),
    (GRID, "name", 3, "name: must be letters"),
    (GRID, "method", None, "method: missing; allowed: grid, random, bayes"),
    (GRID, "method", "custom", "method: 'custom' is no method of search; allowed: grid, random, bayes"),
    (GRID, "method", ["grid"], "method: .* is no method of search"),
    (GRID, "metric", None, "metric: missing; write metric"),
    (GRID, "metric", "valid/loss", "metric: must be a mapping with name and goal, got 'valid/loss'"),
    (GRID, "metric/name", None, "metric.name: missing; Contrastive logs: selection/elementals_accuracy, "),
    (GRID, "metric/name", "val_acc", "metric.name: nobody logs 'val_acc'; Contrastive logs: selection/elementals_accuracy, .*valid/loss$"),
    (GRID, "metric/name", ["val_acc"], "metric.name: nobody logs"),
    (GRID, "metric/goal", None, "metric.goal: must be maximize for selection/clean_accuracy, got none, which means minimize"),
    (GRID, "metric/goal", "max", "metric.goal: must be maximize for .*, got 'max'"),
    (GRID, "metric/target", 0.9, "metric.target: unknown key; allowed: name, goal"),
    (RANDOM, "metric/name", "selection/clean_accuracy", "metric.name: nobody logs .*; Autoencoder logs: selection/mse"),
    (RANDOM, "metric/goal", "maximize", "metric.goal: must be minimize for selection/mse, got 'maximize'"),
    (RANDOM, "run_cap", None, "run_cap: missing; a search by method random would never end"),
    (RANDOM, "run_cap", 0, "run_cap: must be a whole number from 1, got 0"),
    (RANDOM, "run_cap", True, "run_cap: must be a whole number"),
    (GRID, "command", None, 'command: missing; write command: .python, -m, train.sweep, trial, "\\$.args."'),
    (GRID, "command", "python -m train.sweep trial ${args}", "command: must be a list of words that ends in"),
    (GRID, "command", ["python", "-m", "train.sweep", "trial"], "command: must be a list of words that ends in"),
    (GRID, "command", ["${args}"], "command: must be a list of words"),
    (GRID, "command", ["${interpreter}", "${program}", "${args}"], r"command: \$\{program\} has no place in it"),
    (GRID, "command", ["python", "${args_no_hyphens}", "${args}"], r"command: \$\{args_no_hyphens\} has no place in it"),
    (GRID, "program", "train.py", "program: the command says what a trial runs"),
    (GRID, "controller", {"type": "local"}, "controller: who proposes the trials"),
    (GRID, "scheduler", {"engine": "optuna"}, "scheduler: who proposes the trials"),
    (GRID, "job", "a", "job: trials are run by their command"),
    (GRID, "image_uri", "a", "image_uri: trials are run by their command"),
    (GRID, "metrics", [], "metrics: one metric says what is best"),
    (GRID, "parametres", {}, "parametres: unknown key; did you mean 'parameters'.*allowed: name, method, metric"),
    (GRID, "display_name", "a", "display_name: unknown key"),
    (GRID, "project", 3, "project: must be a word, got 3"),
    (GRID, "kind", "run", "kind: must be sweep, got 'run'"),
    (GRID, "parameters", None, "parameters: missing; they are the fields of an entry"),
    (GRID, "parameters", [], "parameters: must be a mapping of the fields of an entry"),
    (GRID, "parameters", {}, "parameters: must be a mapping of the fields of an entry"),
    (GRID, "parameters/lr", 0.1, "parameters.lr: must be a mapping such as .*, got 0.1"),
    (GRID, "parameters/lr", {"value": 1, "q": 1}, "parameters.lr.q: unknown key for constant; allowed: distribution, value"),
    (GRID, "parameters/lr-rate", {"value": 1}, "parameters.lr-rate: must be a field of an entry"),
    (GRID, "parameters/3", {"value": 1}, "parameters.3: must be a field of an entry"),
    (GRID, "parameters/module..lr", {"value": 1}, "parameters.module..lr: must be a field of an entry"),
    (GRID, "parameters/a", {"parameters": {"b": 3}}, "parameters.a.b: must be a mapping"),
    (GRID, "parameters/a", {"parameters": {}}, "parameters.a: must be a mapping of the fields"),
    (GRID, "parameters/a", {"parameters": {"b": {"value": 1}}, "value": 1}, "parameters.a.parameters: unknown key for constant"),
    (SWEEPS["nested"], "parameters/module.lr", {"value": 1}, "parameters.module.lr: appears twice, dotted and nested"),
    (GRID, "parameters/method", None, "parameters.method: missing; allowed: Identity, "),
    (GRID, "parameters/method", {"value": "Contrast"}, "parameters.method: 'Contrast' is not on the menu; allowed: 0 Identity"),
    (GRID, "parameters/method", {"value": ["Identity"]}, "parameters.method: .* is not on the menu"),
    (GRID, "parameters/dataset", None, "parameters.dataset: missing; allowed: 0 FashionMNIST-mini"),
    (GRID, "parameters/dataset", {"values": [0, 77]}, "parameters.dataset: 77 is not on the menu"),
    (GRID, "parameters/lr", None, "parameters.lr: missing; Contrastive needs it"),
    (GRID, "parameters/lr", {"values": [0.1, 0]}, "parameters.lr: input should be greater than 0, got 0"),
    (GRID, "parameters/lr", {"values": [0.1, "fast"]}, "parameters.lr: must be a number, got 'fast'"),
    (GRID, "parameters/wait", {"value": 1}, "parameters.wait: unknown key for Contrastive; did you mean 'weight'"),
    (GRID, "parameters/module.lr", {"value": 1}, "parameters.module: unknown key for Contrastive"),
    (GRID, "parameters/lr.x", {"value": 1}, "parameters.lr: has no key 'x' to override, it is 0.1"),
    (GRID, "parameters/method", {"values": ["Contrastive", "Identity"]}, "parameters.weight: unknown key for Identity"),
    (GRID, "parameters/lr", {"min": 0.1, "max": 1}, "parameters.lr: a grid cannot be made of uniform; allowed: constant, categorical, int_uniform, q_uniform"),
    (GRID, "parameters/lr", {"values": [1, 2], "probabilities": [0.5, 0.5]}, "parameters.lr: a grid cannot be made of categorical_w_probabilities"),
    (GRID, "parameters/seed", {"min": 0, "max": 10**12}, "parameters.seed: a grid takes at most 10000 values of a parameter, got 10{12}"),
    (RANDOM, "parameters/lr", {"min": 0.0, "max": 1.0}, "parameters.lr: input should be greater than 0, got 0.0"),
    (RANDOM, "parameters/lr", {"distribution": "normal", "mu": 0.1}, "parameters.lr: input should be greater than 0, got -2.9"),
    (RANDOM, "parameters/epochs", {"distribution": "q_uniform", "min": 1, "max": 9}, "parameters.epochs: must be a whole number, got 1.0"),
    (RANDOM, "parameters/epochs", {"distribution": "q_uniform", "min": 0, "max": 9, "q": 3}, "parameters.epochs: .*greater than or equal to 1, got 0"),
    (SWEEPS["nested"], "parameters/epochs", {"values": [1, 0]}, "parameters.epochs: .*greater than or equal to 1, got 0"),
    (RANDOM, "parameters/corruption", {"values": ["Swirl", "Identity"]}, "parameters.corruption: Identity has no autoencoder"),
    (SWEEPS["bayes"], "parameters/lr", {"distribution": "beta"}, "parameters.lr: beta cannot be searched by method bayes"),
    (SWEEPS["bayes"], "parameters/epochs", {"distribution": "q_uniform", "min": 1, "max": 9, "q": 2}, "parameters.epochs: min: .*multiple of 2, got 1"),
    (GRID, "parameters/evaluation.compositions", {"value": 167}, "parameters.evaluation.compositions: a search selects by validation images"),
    (GRID, "parameters/evaluation.split", {"value": "valid"}, "parameters.evaluation.split: a search selects by validation images"),
    (GRID, "parameters/evaluation", {"parameters": {"split": {"value": "test"}}}, "parameters.evaluation.split: a search selects"),
    (GRID, "parameters/evaluation", {"value": {"split": "test"}}, "parameters.evaluation.split: a search selects"),
    (GRID, "parameters/evaluation", {"value": "test"}, "parameters.evaluation: must be a mapping such as"),
    (GRID, "parameters/evaluation.images", {"values": [10, 20]}, "parameters.evaluation.images: changes nothing of what is trained"),
    (GRID, "parameters/evaluation.images", {"value": 13}, "parameters.evaluation.images: must be a multiple of the 10 classes"),
    (GRID, "parameters/study", {"values": ["a", "b"]}, "parameters.study: changes nothing .*; write value instead of values"),
    (GRID, "parameters/threads", {"min": 1, "max": 2}, "parameters.threads: changes nothing"),
    (GRID, "parameters/device", {"values": ["cpu", "cuda"]}, "parameters.device: changes nothing"),
    (GRID, "early_terminate", {"type": "hyperband", "min_iter": 3}, "early_terminate: selection/clean_accuracy is known at a trial's end alone; .*valid/loss of "),
    (RANDOM, "early_terminate", {"type": "hyperband", "min_iter": 3}, "valid/accuracy of Identity, CrossEntropy, Contrastive, "),
    (HYPERBAND, "early_terminate", 3, "early_terminate: must be a mapping such as"),
    (HYPERBAND, "early_terminate/type", "envelope", "early_terminate.type: must be hyperband, got 'envelope'"),
    (HYPERBAND, "early_terminate/type", None, "early_terminate.type: must be hyperband, got None"),
    (HYPERBAND, "early_terminate/min_iters", 3, "early_terminate.min_iters: unknown key; allowed: type, min_iter, max_iter, s, eta, strict"),
    (HYPERBAND, "early_terminate/min_iter", None, "early_terminate.min_iter: must be given, or both max_iter and s instead"),
    (HYPERBAND, "early_terminate/max_iter", 9, "early_terminate.min_iter: must be given, or both max_iter and s instead"),
    (HYPERBAND, "early_terminate/min_iter", 0, "early_terminate.min_iter: input should be greater than or equal to 1, got 0"),
    (HYPERBAND, "early_terminate/min_iter", 1.5, "early_terminate.min_iter: must be a whole number, got 1.5"),
    (HYPERBAND, "early_terminate/eta", 1, "early_terminate.eta: input should be greater than 1, got 1"),
    (HYPERBAND, "early_terminate/strict", "yes", "early_terminate.strict: .*boolean, got 'yes'"),
    (SWEEPS["hyperband_s"], "early_terminate/s", None, "early_terminate.s: missing; max_iter and s go together"),
    (SWEEPS["hyperband_s"], "early_terminate/max_iter", None, "early_terminate.max_iter: missing; max_iter and s go together"),
    (SWEEPS["hyperband_s"], "early_terminate/max_iter", 2, "early_terminate.max_iter: must be at least eta .3., or no trial is ever stopped, got 2"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "keys", "value", "words"), BAD)
def test_a_bad_sweep_is_refused_in_one_line(tmp_path, runs, base, keys, value, words):
    path = write(tmp_path, edited(base, keys.split("/"), value))
    with pytest.raises(InputError, match=f": {words}" if not words.startswith("valid") else words) as caught:
        read_sweep(path)
    assert str(caught.value).startswith(f"{path}: {keys.split('/')[0]}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be a W&B sweep: a mapping .* but holds nothing"),
        ("- {dataset: 0}", "but holds a list"),
        ("words", "but holds a str"),
        ("name: a\nname: b", "line 2: key 'name' appears twice"),
        ("parameters: {lr: {value: 1}, lr: {value: 2}}", "line 1: key 'lr' appears twice"),
        ("name: !!python/object/apply:os.system ['true']", "line 1: could not determine a constructor"),
        ("{a: ", "line [12]: "),
        (yaml.safe_dump(SWEEPS["grid"]) + "\n  tags: &t {value: [*t]}", "sweep.yaml: "),
        (yaml.safe_dump(sweep(IDENTITY)).replace("- 0.01", "- 2024-01-01"), "parameters.lr.values: must be a number, a word"),
        ("\x00", "sweep.yaml: "),
    ],
)  # fmt: skip
def test_a_file_that_is_no_sweep_is_refused_in_one_line(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=words) as caught:
        read_sweep(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_value_that_holds_itself_is_refused(tmp_path):
    text = yaml.safe_dump(sweep(IDENTITY)).replace("- 0.01", "- &a [*a]")
    with pytest.raises(InputError, match="refers to what it stands in"):
        read_sweep(write(tmp_path, text))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nothing.yaml: cannot be read as a sweep: No such file"):
        read_sweep(tmp_path / "nothing.yaml")


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["auto", "", "a.yaml", "runs/x.yaml", "uniform", "Identity", "${args}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "values", "min", "max", "parameters", "lr", "x"]), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(st.sampled_from(sorted(SWEEPS)), st.data())
@settings(max_examples=300)
def test_whatever_stands_in_a_file_is_read_or_refused(tmp_path_factory, name, data):
    raw = copy.deepcopy(SWEEPS[name])
    where, key = raw, data.draw(st.sampled_from(sorted(raw)))
    while isinstance(where[key], dict) and where[key] and data.draw(st.booleans()):
        where = where[key]
        key = data.draw(st.sampled_from(sorted(where)))
    where[key] = data.draw(junk)
    path = tmp_path_factory.getbasetemp() / "a.yaml"
    try:
        found = validated(path, raw)
    except FieldError as error:
        problem = error
    else:
        problem = FieldError("none", "")
        assert len(found.hash) == 64
        assert found.trials >= 1
    assert problem.key
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    "metric", sorted({metric for name in info_dicts.METHODS.values() for metric in metrics_of(experiment_class(name))})
)
def test_only_live_metrics_stop_trials_early(tmp_path, metric):
    goal = next(m.goal for name in info_dicts.METHODS.values() for m in metrics_of(experiment_class(name)).values() if m.name == metric)
    method = next(name for name in info_dicts.METHODS.values() if metric in metrics_of(experiment_class(name)))
    parameters = {"dataset": {"value": 0}, "method": {"value": str(method)}, "lr": {"value": 1}}
    if method == "Module":
        parameters |= {"weight": {"value": 1}, "level": {"value": 0}, "backbone.lr": {"value": 1}}
    raw = sweep(parameters, metric={"name": metric, "goal": goal})
    assert validated(tmp_path, raw).metric.name == metric
    raw["early_terminate"] = {"type": "hyperband", "min_iter": 1}
    if metric == LIVE["name"] or metric == "valid/loss":
        assert validated(tmp_path, raw).early_terminate.min_iter == 1
    else:
        with pytest.raises(FieldError, match="known at a trial's end alone"):
            validated(tmp_path, raw)


def test_every_point_of_a_small_grid_is_tried(tmp_path):
    """A level of one network that another one has not, where each alone would pass with the first of the others."""
    parameters = {
        "dataset": {"value": "FashionMNIST"},
        "method": {"value": "Contrastive"},
        "model": {"values": ["EMNISTNet", "SmallNet"]},
        "levels": {"values": [4, 5]},
        "lr": {"value": 1},
        "weight": {"value": 1},
    }
    with pytest.raises(FieldError, match=r"parameters.levels: must be one level from 1 to 4.*got 5"):
        validated(tmp_path, sweep(parameters))


def test_reading_a_sweep_never_loads_torch(tmp_path):
    path = write(tmp_path, SWEEPS["bayes"])
    code = f"""
import sys, train.sweep.file
train.sweep.file.read_sweep({str(path)!r}).draw(0)
assert not {{'torch', 'numpy', 'wandb', 'optuna'}} & set(sys.modules), 'too much is imported'
"""
    subprocess.run([sys.executable, "-c", code], check=True)
