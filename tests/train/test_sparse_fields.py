"""Pruning, penalties, initial weights, inputs and what is kept, in an entry: what is in the hash and the name, what is refused and in which words. No run."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plots.records import rebuild
from train.build import build
from train.fields import FieldError
from train.run import resolved

IDENTITY = {"dataset": 0, "method": "Identity", "lr": 0.1}
MODULE = {"dataset": 0, "method": "Module", "corruption": "Swirl", "level": 1, "lr": 0.01, "weight": 1, "backbone": {"lr": 0.1}}
SYSTEM = {"dataset": 0, "method": "ModularSystem", "backbone": {"lr": 0.1}, "module": {"level": 1, "lr": 0.01, "weight": 1}}
TEACHER = {"dataset": 0, "method": "Teacher", "mechanism": "B", "lr": 0.1}
TRAINED = {
    "Identity": IDENTITY,
    "CrossEntropy": IDENTITY | {"method": "CrossEntropy"},
    "Contrastive": IDENTITY | {"method": "Contrastive", "weight": 1},
    "Module": MODULE,
    "Autoencoder": {"dataset": 0, "method": "Autoencoder", "corruption": "Swirl", "lr": 0.1},
    "JointClassifier": IDENTITY | {"method": "JointClassifier", "autoencoder": {"lr": 0.1}},
    "Router": IDENTITY | {"method": "Router"},
    "Teacher": TEACHER,
    "Student": TEACHER | {"method": "Student", "mechanism": "P", "loss": "Base", "teacher": {"mechanism": "B", "lr": 0.1}},
}
WHOLE = [name for name in TRAINED if name not in ("Module", "Autoencoder", "Router")]
DEFAULTS = {"keep": "best", "pruning": None, "l1": 0, "l2": 0.0, "cut_penalty": None, "clusterable_start": None}
PARTS = {
    "pruning": {"epochs": 5, "sparsity": 0.9, "start": 0.5, "power": 3, "every": 10},
    "cut_penalty": {"weight": 0.5, "eigenvalues": 3, "every": 1},
    "clusterable_start": {"modules": 10, "d": 0.6},
}
SHORT = {"pruning": {"epochs": 5}, "cut_penalty": {"weight": 0.5}, "clusterable_start": {}}
OTHERS = {
    "pruning": {"epochs": 6, "sparsity": 0.8, "start": 0.4, "power": 2.5, "every": 1},
    "cut_penalty": {"weight": 0.25, "eigenvalues": 4, "every": 2},
    "clusterable_start": {"modules": 9, "d": 0.5},
}
CHANGES = {
    "keep": {"keep": "last"},
    "l1": {"l1": 0.01},
    "l2": {"l2": 0.01},
    **{key: {key: value} for key, value in SHORT.items()},
}


def sha256(canonical):
    return hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@pytest.mark.parametrize("kind", TRAINED)
def test_an_entry_without_the_fields_is_the_one_with_their_defaults(kind):
    entry = TRAINED[kind]
    experiment = build(entry)
    written = DEFAULTS | ({"inputs": "standardised"} if kind in WHOLE else {})
    assert build(entry | written).hash == experiment.hash
    assert build(entry | written).name == experiment.name
    assert not written.keys() & experiment.canonical().keys()


def test_hashes_are_those_of_the_fields_that_differ_from_their_defaults():
    plain = {"dataset": 0, "method": 0, "lr": 0.1}
    assert build(IDENTITY).hash == sha256(plain)
    assert build(IDENTITY | {"pruning": PARTS["pruning"]}).hash == sha256(plain | {"pruning": {"epochs": 5}})
    assert build(IDENTITY | {"cut_penalty": PARTS["cut_penalty"]}).hash == sha256(plain | {"cut_penalty": {"weight": 0.5}})
    assert build(IDENTITY | {"clusterable_start": PARTS["clusterable_start"]}).hash == sha256(plain | {"clusterable_start": {}})
    more = {"keep": "last", "l1": 0.25, "l2": 0.5, "inputs": "unit"}
    assert build(IDENTITY | more | {"pruning": {"epochs": 5, "every": 3}}).hash == sha256(
        plain | more | {"pruning": {"epochs": 5, "every": 3}}
    )


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, values in OTHERS.items() for name in values])
def test_every_value_of_a_part_is_in_the_hash(key, name):
    changed = build(IDENTITY | {key: SHORT[key] | {name: OTHERS[key][name]}})
    same = build(IDENTITY | {key: PARTS[key]})
    assert build(IDENTITY | {key: SHORT[key]}).hash == same.hash
    assert len({changed.hash, same.hash, build(IDENTITY).hash}) == 3


@pytest.mark.parametrize("kind", TRAINED)
def test_every_field_makes_another_experiment_of_every_method_that_trains(kind):
    changes = [{}, *CHANGES.values(), *([{"inputs": "unit"}] if kind in WHOLE else [])]
    assert len({build(TRAINED[kind] | change).hash for change in changes}) == len(changes)


fields = st.fixed_dictionaries(
    {},
    optional={
        "keep": st.sampled_from(["best", "last"]),
        "inputs": st.sampled_from(["standardised", "unit"]),
        "l1": st.floats(0, 1),
        "l2": st.floats(0, 1),
        "pruning": st.fixed_dictionaries(
            {"epochs": st.integers(1, 50)},
            optional={
                "sparsity": st.floats(0.5, 0.99),
                "start": st.floats(0, 0.5),
                "power": st.floats(0.5, 4),
                "every": st.integers(1, 20),
            },
        ),
        "cut_penalty": st.fixed_dictionaries(
            {"weight": st.floats(0.001, 10)}, optional={"eigenvalues": st.integers(1, 9), "every": st.integers(1, 20)}
        ),
        "clusterable_start": st.fixed_dictionaries({}, optional={"modules": st.integers(1, 20), "d": st.floats(0.1, 1)}),
    },
)


@settings(max_examples=25, deadline=None)
@given(fields)
def test_what_is_written_of_an_experiment_builds_it_again(more):
    experiment = build(IDENTITY | more)
    canonical = json.loads(json.dumps(experiment.canonical()))
    assert build(canonical).hash == rebuild(canonical).hash == experiment.hash
    written = json.loads(json.dumps(resolved(experiment)))
    again = build({key: value for key, value in written.items() if not key.endswith("_number")})
    assert again == experiment
    for key, values in more.items():
        if isinstance(values, dict):
            assert {name: getattr(getattr(again, key), name) for name in values} == values


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"l1": 0.001}, "l1_0.001"),
        ({"l2": 0.25}, "l2_0.25"),
        ({"cut_penalty": {"weight": 0.5}}, "cut0.5"),
        ({"clusterable_start": {}}, "clusterable"),
        ({"pruning": {"epochs": 5}}, "pruned0.9"),
        ({"pruning": {"epochs": 5, "sparsity": 0.75}}, "pruned0.75"),
    ],
)
def test_the_name_of_a_run_carries_what_is_special_about_its_weights(kind, more, words):
    plain, special = (build(TRAINED[kind] | own).name.split("-") for own in ({}, more))
    assert words not in plain
    assert special[:-1].count(words) == 1
    assert [word for word in special[:-1] if word != words] == plain[:-1]


def test_all_of_them_stand_in_a_name():
    name = build(IDENTITY | CHANGES["l1"] | CHANGES["l2"] | SHORT).name
    assert name.startswith("Identity-lr0.1-l1_0.01-l2_0.01-cut0.5-clusterable-pruned0.9-s0-")


WRONG = [
    ({"pruning": {"epochs": 2, "sparsity": 1.5}}, r"pruning\.sparsity: input should be less than 1, got 1\.5"),
    ({"pruning": {"epochs": 2, "sparsity": 1}}, r"pruning\.sparsity: .*less than 1, got 1"),
    ({"pruning": {"epochs": 2, "sparsity": 0}}, r"pruning\.sparsity: .*greater than 0, got 0"),
    ({"pruning": {"epochs": 2, "sparsity": float("nan")}}, r"pruning\.sparsity: .*got nan"),
    ({"pruning": {"epochs": 2, "sparsity": "0,9"}}, r"pruning\.sparsity: must be a number, got '0,9'"),
    ({"pruning": {"epochs": 2, "sparsity": True}}, r"pruning\.sparsity: must be a number, got True"),
    ({"pruning": {"epochs": 2, "start": 0.95}}, r"pruning.*start: must be at most the sparsity at the end, 0\.9, got 0\.95"),
    ({"pruning": {"epochs": 2, "sparsity": 0.4}}, r"pruning.*start: must be at most the sparsity at the end, 0\.4, got 0\.5"),
    ({"pruning": {"epochs": 2, "start": -0.1}}, r"pruning\.start: .*greater than or equal to 0, got -0\.1"),
    ({"pruning": {"epochs": 2, "start": 1}}, r"pruning\.start: .*less than 1"),
    ({"pruning": {"epochs": 0}}, r"pruning\.epochs: .*greater than or equal to 1, got 0"),
    ({"pruning": {"epochs": 1.5}}, r"pruning\.epochs: must be a whole number, got 1\.5"),
    ({"pruning": {"epochs": 2, "every": 0}}, r"pruning\.every: .*greater than or equal to 1, got 0"),
    ({"pruning": {"epochs": 2, "power": 0}}, r"pruning\.power: .*greater than 0, got 0"),
    ({"pruning": {"epochs": 2, "power": float("inf")}}, r"pruning\.power: .*finite"),
    ({"pruning": {"sparsity": 0.9}}, r"pruning\.epochs: missing"),
    ({"pruning": {}}, r"pruning\.epochs: missing"),
    ({"pruning": 20}, r"pruning: .*got 20"),
    ({"cut_penalty": {}}, r"cut_penalty\.weight: missing"),
    ({"cut_penalty": {"eigenvalues": 3}}, r"cut_penalty\.weight: missing"),
    ({"cut_penalty": {"weight": 0}}, r"cut_penalty\.weight: .*greater than 0, got 0"),
    ({"cut_penalty": {"weight": 1, "eigenvalues": 0}}, r"cut_penalty\.eigenvalues: "),
    ({"cut_penalty": {"weight": 1, "every": 2.5}}, r"cut_penalty\.every: must be a whole number, got 2\.5"),
    ({"cut_penalty": 0.1}, r"cut_penalty: .*got 0\.1"),
    ({"clusterable_start": {"modules": 0}}, r"clusterable_start\.modules: "),
    ({"clusterable_start": {"d": 0}}, r"clusterable_start\.d: .*greater than 0, got 0"),
    ({"clusterable_start": {"d": 1.1}}, r"clusterable_start\.d: .*less than or equal to 1, got 1\.1"),
    ({"clusterable_start": True}, r"clusterable_start: .*got True"),
    ({"l1": -1}, r"l1: .*greater than or equal to 0, got -1"),
    ({"l1": "small"}, r"l1: must be a number, got 'small'"),
    ({"l2": float("inf")}, r"l2: .*finite"),
    ({"keep": "first"}, r"keep: .*'best' or 'last', got 'first'"),
]


@pytest.mark.parametrize("kind", ["Identity", "Module", "Teacher"])
@pytest.mark.parametrize(("more", "words"), WRONG, ids=str)
def test_wrong_values_are_one_line_that_names_the_key(kind, more, words):
    with pytest.raises(FieldError, match=f"^{words}") as raised:
        build(TRAINED[kind] | more)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", PARTS)
def test_an_unknown_key_of_a_part_is_told_with_the_parts_own(key):
    misspelt = next(iter(PARTS[key])) + "s"
    with pytest.raises(FieldError, match=rf"^{key}\.{misspelt}: unknown key") as raised:
        build(IDENTITY | {key: SHORT[key] | {misspelt: 1}})
    assert "\n" not in str(raised.value)
    for name in PARTS[key]:
        assert name in str(raised.value).split("allowed: ")[1].split(", ")


@pytest.mark.parametrize("value", ["raw", 1, True])
def test_inputs_are_of_whole_networks_and_of_two_kinds(value):
    for kind in WHOLE:
        with pytest.raises(FieldError, match=r"^inputs: .*'standardised' or 'unit'"):
            build(TRAINED[kind] | {"inputs": value})
    for kind in TRAINED.keys() - WHOLE:
        with pytest.raises(FieldError, match=r"^inputs: unknown key"):
            build(TRAINED[kind] | {"inputs": "unit"})


def test_modules_are_not_made_for_a_backbone_of_unit_inputs():
    backbone = {"lr": 0.1, "inputs": "unit"}
    for entry, key in ((MODULE, "backbone"), (SYSTEM, "backbone")):
        with pytest.raises(FieldError, match=r"backbone\.inputs: modules are made for standardised images$") as raised:
            build(entry | {key: backbone})
        assert "\n" not in str(raised.value)
        assert build(entry | {key: backbone | {"inputs": "standardised"}}).hash == build(entry).hash
    assert build(IDENTITY | {"inputs": "unit"}).inputs == "unit"


def test_a_nested_network_says_itself_how_it_is_pruned():
    pruned = build(MODULE | CHANGES["pruning"] | {"l1": 0.1, "keep": "last"})
    assert pruned.pruning.epochs == 5
    assert pruned.backbone == build(MODULE).backbone
    nested = build(MODULE | {"backbone": {"lr": 0.1, "pruning": {"epochs": 3}}})
    assert nested.pruning is None
    assert nested.backbone.hash == build(IDENTITY | {"pruning": {"epochs": 3}}).hash
    assert len({own.hash for own in (pruned, nested, build(MODULE))}) == 3
    system = build(SYSTEM | {"module": SYSTEM["module"] | {"pruning": {"epochs": 4}}})
    assert {part.pruning.epochs for part in system.modules()} == {4}
    assert all(part.backbone.pruning is None for part in system.modules())
    assert system.hash != build(SYSTEM).hash


def test_a_system_without_a_training_takes_none_of_the_fields():
    for key, value in CHANGES.items():
        with pytest.raises(FieldError, match=rf"^{key}: unknown key for ModularSystem"):
            build(SYSTEM | value)


@pytest.mark.parametrize("asked", [{"lesions": {"weights": "unpruned"}}, {"clusterability": {"weights": ["final", "unpruned"]}}])
def test_unpruned_weights_need_a_pruning(asked):
    entry = {"dataset": 1, "method": "Identity", "model": "MLP-256x4", "lr": 0.1, "analyses": asked}
    with pytest.raises(FieldError, match=r"analyses: \w+: weights: unpruned are those before a pruning; this entry has no 'pruning'"):
        build(entry)
    assert build(entry | {"pruning": {"epochs": 1}}).analyses


@pytest.mark.parametrize("key", ["pruning", "cut_penalty", "clusterable_start", "evaluation"])
def test_a_number_in_the_place_of_keys_is_told_which_keys_there_are(key):
    with pytest.raises(FieldError, match=rf"{key}: must be a mapping, got 20; its keys: \w+, "):
        build({"dataset": 1, "method": "Identity", "model": "MLP-256x4", "lr": 0.1, key: 20})
