"""Metrics: against scikit-learn, batch by batch, and from the loop to the record, W&B's values and the table."""

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

import info_dicts
from losses import metrics as ours
from losses.metrics import Tally
from plots.records import Record
from plots.table import tabulate
from tests.train.runs import COMMON, CPU, facts, make, metrics, train
from train.build import build
from train.fields import FieldError
from train.method import load_network
from train.subject import row_of, values_of

NAMES = [str(name) for name in info_dicts.METRICS.values()]
SCORED = {
    "Identity": {},
    "CrossEntropy": {},
    "Module": {"corruption": "Invert", "weight": 0.1, "level": "auto", "search_epochs": 1, "backbone": {"lr": 0.05}},
    "Teacher": {"mechanism": "B"},
}


def by_sklearn(logits_nk, labels_n):
    answers, classes = logits_nk.argmax(1), logits_nk.shape[1]
    with warnings.catch_warnings():
        # Of classes that are answered but have no images.
        warnings.simplefilter("ignore")
        values = {
            "accuracy": sklearn_metrics.accuracy_score(labels_n, answers),
            "mcc": sklearn_metrics.matthews_corrcoef(labels_n, answers),
            "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels_n, answers),
            "f1_macro": sklearn_metrics.f1_score(labels_n, answers, average="macro", zero_division=0),
        }
    if classes < 6:
        return values | {"top5_accuracy": 1.0}
    return values | {"top5_accuracy": sklearn_metrics.top_k_accuracy_score(labels_n, logits_nk, k=5, labels=range(classes))}


def tally(logits_nk, labels_n, batches=1):
    found = Tally(logits_nk.shape[1], CPU)
    for logits, labels in zip(np.array_split(logits_nk, batches), np.array_split(labels_n, batches)):
        found.add(torch.from_numpy(logits), torch.from_numpy(labels))
    return found


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 12), st.integers(1, 60), st.integers(0, 2**32 - 1), st.floats(0, 3), st.integers(1, 4), st.integers(1, 12))
def test_every_metric_is_scikit_learns(classes, n, seed, skill, batches, present):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, min(present, classes), n)
    # No two logits are equal, so that there is one order.
    logits = draw.permuted(np.tile(np.arange(classes, dtype=np.float64), (n, 1)), axis=1)
    logits[np.arange(n), labels] += skill * classes / 3 + 0.5
    assert tally(logits, labels, batches).values(NAMES) == pytest.approx(by_sklearn(logits, labels), abs=1e-12)


def test_the_menu_is_what_can_be_computed():
    assert list(ours.METRICS) == NAMES


def test_perfect_opposite_and_constant_answers():
    labels = np.arange(12) % 3
    assert tally(np.eye(3)[labels], labels).values(NAMES) == dict.fromkeys(NAMES, pytest.approx(1.0))
    two = np.arange(10) % 2
    assert tally(np.eye(2)[1 - two], two).values(["mcc", "accuracy", "f1_macro"]) == {"mcc": -1.0, "accuracy": 0.0, "f1_macro": 0.0}
    constant = tally(np.eye(3)[np.zeros(12, int)], labels)
    assert constant.values(["mcc", "balanced_accuracy"]) == {"mcc": 0.0, "balanced_accuracy": pytest.approx(1 / 3)}


def test_nothing_counted_and_unknown_names_are_errors():
    empty = Tally(3, CPU)
    assert empty.values([]) == {}
    with pytest.raises(ValueError, match="no image was counted"):
        empty.values(["accuracy"])
    with pytest.raises(ValueError, match="no metric 'kappa'; allowed: accuracy, top5_accuracy"):
        empty.values(["kappa"])


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("method", SCORED)
def test_they_stand_in_the_record_in_wandbs_values_and_in_the_table(method, small):
    entry = COMMON | {"method": method, "lr": 0.05, "epochs": 2} | SCORED[method]
    if method == "Module":
        train(COMMON | {"method": "Identity", "lr": 0.05})
    plain, experiment = build(entry), train(entry | {"metrics": [2, "accuracy", "top5_accuracy", 3, "f1_macro"]})
    assert plain.hash == experiment.hash
    rows = [row for row in metrics(experiment) if "valid_loss" in row]
    for row in rows:
        assert all(-1 <= row[f"valid_{name}"] <= 1 for name in NAMES)
        assert row["valid_top5_accuracy"] >= row["valid_accuracy"]
        told = {key: value for key, value in row.items() if key != "left"}
        assert row_of(values_of(row)) == told
        prefix = "" if row["stage"] == "train" else f"search/{row['stage'].removeprefix('search-')}/"
        assert values_of(row)[f"{prefix}valid/balanced_accuracy"] == row["valid_balanced_accuracy"]
    table = tabulate([Record(experiment, tuple(rows))])
    for name in NAMES:
        own = table[(table["metric"] == name) & (table["split"] == "valid")]
        assert own["value"].tolist() == [row[f"valid_{name}"] for row in rows if row["stage"] == "train"]
    best = min(reversed(rows[-2:]), key=lambda row: row["valid_loss"])
    assert {key: facts(experiment)[key] for key in best if key.startswith("valid_")} == {
        key: best[key] for key in best if key.startswith("valid_")
    }
    if method in ("Identity", "CrossEntropy"):
        network, logits, labels = load_network(experiment, CPU), [], []
        with torch.no_grad():
            for batch in make(experiment, small).batches().validation():
                logits.append(network(batch.images_nchw).numpy())
                labels.append(batch.labels_n.numpy())
        expected = by_sklearn(np.concatenate(logits), np.concatenate(labels))
        assert {name: best[f"valid_{name}"] for name in NAMES} == pytest.approx(expected)


@pytest.mark.usefixtures("small_runs")
def test_what_is_asked_for_changes_nothing_else():
    entry = COMMON | {"method": "Identity", "lr": 0.05}
    plain = train(entry)
    rows = metrics(plain)
    plain.directory.rename(plain.directory.with_name("plain"))
    scored = metrics(train(entry | {"metrics": ["mcc"]}))
    assert [{key: value for key, value in row.items() if key != "valid_mcc"} for row in scored] == rows
    assert all("valid_mcc" in row for row in scored)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"method": "Identity", "metrics": "mcc"}, r"metrics: must be a list of metrics, got 'mcc'"),
        ({"method": "Identity", "metrics": ["kappa"]}, r"metrics: 'kappa' is not on the menu; allowed: 0 accuracy, 1 top5_accuracy, 2 mcc"),
        ({"method": "Identity", "metrics": [2, "mcc"]}, r"metrics: must be different metrics, got mcc, mcc"),
        ({"method": "Autoencoder", "corruption": 6, "metrics": [0]}, r"metrics: Autoencoder tells no classes"),
        ({"method": "Router", "metrics": [0]}, r"metrics: Router tells no classes"),
    ],
)
def test_what_cannot_be_scored_is_refused(entry, words):
    with pytest.raises(FieldError, match=words) as caught:
        build({"dataset": 0, "lr": 0.1} | entry)
    assert "\n" not in str(caught.value)


def test_a_written_experiment_has_its_metrics():
    experiment = build({"dataset": 0, "method": "Identity", "lr": 0.1, "metrics": ["f1_macro", 1]})
    assert experiment.metrics == ("top5_accuracy", "f1_macro")
    assert build(json.loads(json.dumps(experiment.model_dump(mode="json")))).metrics == experiment.metrics
    assert experiment.canonical() == build({"dataset": 0, "method": "Identity", "lr": 0.1}).canonical()
