"""From the values of a trial to its entry and its experiments: nesting, parts of all corruptions, winners of other searches."""

import pytest
import yaml

import info_dicts
from errors import InputError
from tests.sweep.samples import SWEEPS, edited, sweep, write
from train.build import build, experiment_class
from train.fields import FieldError
from train.sweep.entry import entry_of, experiments_of
from train.sweep.file import read_sweep
from train.sweep.metrics import metrics_of

WINNER = {"dataset": "FashionMNIST-mini", "method": "Identity", "seed": 7, "lr": 0.03, "epochs": 3}
SYSTEM = {"dataset": 0, "method": "ModularSystem", "seed": 1, "epochs": 20, "module.lr": 0.1, "module.weight": 1, "module.level": "auto"}


def winner(path, entry):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump([entry]))
    return path


def test_a_trial_is_evaluated_on_validation_elementals():
    values = {"dataset": 0, "method": "Identity", "lr": 0.1}
    assert entry_of(values)["evaluation"] == {"compositions": "elementals", "split": "valid"}
    for images in ({"evaluation.images": 200}, {"evaluation": {"images": 200}}):
        (experiment,) = experiments_of(entry_of(values | images))
        assert (experiment.evaluation.compositions, experiment.evaluation.split, experiment.evaluation.images) == (
            "elementals",
            "valid",
            200,
        )
    for key in ("compositions", "split", "severities"):
        with pytest.raises(FieldError, match=f"evaluation.{key}: a search selects by"):
            entry_of(values | {f"evaluation.{key}": 167})


def test_values_nest_in_any_order():
    values = {"module.lr": 0.1, "module": {"weight": 1, "level": 0, "lr": 5}, "backbone.lr": 0.2, "method": 4, "dataset": 0}
    backwards = dict(reversed(values.items()))
    assert entry_of(values) == entry_of(backwards)
    assert entry_of(values)["module"] == {"weight": 1, "level": 0, "lr": 0.1}


def test_a_part_without_a_corruption_is_trained_for_all_six():
    values = {"dataset": 0, "method": "Module", "lr": 0.1, "weight": 1, "level": "auto", "backbone.lr": 0.1}
    experiments = experiments_of(entry_of(values))
    assert [experiment.corruption for experiment in experiments] == [
        str(name) for name in info_dicts.CORRUPTIONS.values() if name != "Identity"
    ]
    assert len({experiment.hash for experiment in experiments}) == 6
    assert [experiment.corruption for experiment in experiments_of(entry_of(values | {"corruption": 6}))] == ["Swirl"]
    system = build({"dataset": 0, "method": 4, "backbone": {"lr": 0.1}, "module": {"lr": 0.1, "weight": 1, "level": "auto"}})
    assert [experiment.hash for experiment in experiments] == [module.hash for module in system.modules()]


def test_a_winner_is_the_very_experiment(runs, tmp_path):
    """Its seed and its epochs, also those it leaves to defaults, whatever the trial around it says."""
    for entry in (WINNER, {key: value for key, value in WINNER.items() if key not in ("seed", "epochs")} | {"tags": ["x"], "study": "s"}):
        winner(runs / "sweeps/one/best.yaml", entry | {"evaluation": {"compositions": "1957"}})
        (system,) = experiments_of(
            entry_of(SYSTEM | {"backbone": "runs/sweeps/one/best.yaml", "batch_size": 64, "precision": "bfloat16", "study": "mine"})
        )
        assert system.backbone.hash == build(entry).hash
        assert system.seed == 1
        assert [module.backbone.hash for module in system.modules()] == [build(entry).hash] * 6
        assert (system.backbone.study, system.backbone.tags) == ("mine", ())
        assert system.backbone.evaluation.compositions == "elementals"


def test_where_a_winners_file_lies(runs, tmp_path):
    winner(tmp_path / "mine/best.yaml", WINNER)
    expected = build(WINNER).hash
    relative = experiments_of(entry_of(SYSTEM | {"backbone": "mine/best.yaml"}, tmp_path))
    absolute = experiments_of(entry_of(SYSTEM | {"backbone": str(tmp_path / "mine/best.yaml")}))
    assert [system.backbone.hash for system in relative + absolute] == [expected, expected]
    with pytest.raises(FieldError, match=r"^backbone: /.*/mine/best.yaml: not there; .*python -m train.sweep best SOURCE writes it$"):
        entry_of(SYSTEM | {"backbone": "mine/best.yaml"})
    with pytest.raises(FieldError, match=rf"^backbone: {runs}/mine/best.yaml: not there"):
        entry_of(SYSTEM | {"backbone": "runs/mine/best.yaml"}, tmp_path)


def test_a_winner_for_one_corruption_serves_all(runs):
    part = {"dataset": 0, "method": "Autoencoder", "lr": 0.02, "seed": 5}
    joint = {"dataset": 0, "method": "JointClassifier", "lr": 0.3, "autoencoder": "runs/ae.yaml"}
    for corruption in ({"corruption": "Swirl"}, {}):
        winner(runs / "ae.yaml", part | corruption)
        winner(runs / "joint.yaml", joint)
        values = {"dataset": 0, "method": "ImgSpaceJoint", "autoencoder": "runs/ae.yaml", "classifier": "runs/joint.yaml"}
        (system,) = experiments_of(entry_of(values))
        autoencoders = experiments_of(part)
        assert [found.hash for found in system.autoencoders()] == [found.hash for found in autoencoders]
        assert system.classifier.hash == build(joint | {"autoencoder": {"lr": 0.02, "seed": 5}}).hash


def test_a_winner_may_stand_deep_inside(runs):
    winner(runs / "one.yaml", WINNER)
    values = {
        "dataset": 0,
        "method": "CrossEntropy",
        "lr": 1,
        "match": {"backbone": "runs/one.yaml", "module": {"lr": 1, "weight": 1, "level": 0}},
    }
    (experiment,) = experiments_of(entry_of(values))
    assert experiment.match.backbone.hash == build(WINNER).hash
    with pytest.raises(FieldError, match=r"^match.backbone: .*two.yaml: not there"):
        entry_of(values | {"match": {"backbone": "runs/two.yaml"}})


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "must be a YAML list"),
        ([WINNER, WINNER], "must hold one entry, the winner of a search, but holds 2"),
        (["Identity"], "must hold one entry"),
        ([WINNER | {"dataset": "MNIST"}], "one.yaml is for MNIST, this for FashionMNIST-mini"),
        ([WINNER | {"dataset": 2, "model": "SmallNet"}], "one.yaml is for FashionMNIST, this for FashionMNIST-mini"),
        ([WINNER | {"method": "CrossEntropy"}], "one.yaml holds a CrossEntropy, must be an Identity"),
        ([{"dataset": 0, "method": "Autoencoder", "lr": 1}], "one.yaml holds an Autoencoder, must be an Identity"),
        ([WINNER | {"lr": "fast"}], "one.yaml: lr: must be a number, got 'fast'"),
        ([{"dataset": 0, "lr": 1}], "one.yaml: method: None is not on the menu"),
    ],
)  # fmt: skip
def test_a_wrong_winner_is_refused(runs, tmp_path, entries, words):
    winner(runs / "one.yaml", WINNER).write_text(yaml.safe_dump(entries))
    with pytest.raises(FieldError, match=f"^backbone: .*{words}"):
        entry_of(SYSTEM | {"backbone": "runs/one.yaml"})
    raw = edited(SWEEPS["nested"], ["parameters", "backbone"], {"value": "runs/one.yaml"})
    with pytest.raises(InputError, match=f"sweep.yaml: parameters.backbone: .*{words}") as caught:
        read_sweep(write(tmp_path, raw))
    assert "\n" not in str(caught.value)


def test_a_winner_of_another_model_is_refused(runs):
    winner(runs / "one.yaml", WINNER | {"dataset": "FashionMNIST"})
    with pytest.raises(FieldError, match=r"^backbone: .*one.yaml is for EMNISTNet, this for SmallNet"):
        entry_of(SYSTEM | {"dataset": "FashionMNIST", "model": "SmallNet", "backbone": "runs/one.yaml"})


STEPS = [
    SYSTEM | {"backbone": "runs/a.yaml"},
    {"dataset": 0, "method": 4, "backbone": "runs/a.yaml", "module": "runs/b.yaml"},
    {"dataset": 0, "method": "Module", "backbone": "runs/a.yaml", "lr": 1, "weight": 1, "level": 0},
    {"dataset": 0, "method": "JointClassifier", "autoencoder": "runs/a.yaml", "lr": 1},
    {"dataset": 0, "method": "ImgSpaceIdentity", "autoencoder": "runs/a.yaml", "classifier": "runs/b.yaml"},
    {
        "dataset": 0,
        "method": "ImgSpaceJoint",
        "autoencoder": "runs/a.yaml",
        "classifier": "runs/b.yaml",
        "routing": "router",
        "router": "runs/c.yaml",
    },
    {"dataset": 0, "method": "CrossEntropy", "lr": 1, "match": "runs/a.yaml"},
]


@pytest.mark.parametrize("values", STEPS)
def test_a_search_is_validated_before_the_one_it_needs(runs, tmp_path, values):
    with pytest.raises(FieldError, match="not there"):
        entry_of(values)
    assert {experiment.method for experiment in experiments_of(entry_of(values, missing_ok=True))} == {
        experiment_class(values["method"]).__name__
    }
    parameters = {key: {"value": value} for key, value in values.items()}
    first = next(iter(metrics_of(experiment_class(values["method"])).values()))
    metric = {"name": first.name, "goal": first.goal}
    assert read_sweep(write(tmp_path, sweep(parameters, metric=metric))).trials == 1


def test_a_prerequisite_that_is_no_file_is_refused(runs, tmp_path):
    raw = edited(SWEEPS["nested"], ["parameters", "backbone"], {"value": "auto"})
    with pytest.raises(
        InputError, match=r"parameters.backbone: must be a mapping, or a YAML file with the winner of another search, got 'auto'"
    ):
        read_sweep(write(tmp_path, raw))
