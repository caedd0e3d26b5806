"""The analysis `metrics`: scores of a system's answers under compositions, against scikit-learn's."""

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef, top_k_accuracy_score

from analysis.metrics import run
from analysis.options import Metrics, read_options
from tests.analysis.looked_at import inputs, seen, small_convolutions

ORACLES = {
    "top5_accuracy": lambda labels, logits: top_k_accuracy_score(labels, logits, k=5, labels=range(10)),
    "mcc": lambda labels, logits: matthews_corrcoef(labels, logits.argmax(1)),
    "balanced_accuracy": lambda labels, logits: balanced_accuracy_score(labels, logits.argmax(1)),
    "f1_macro": lambda labels, logits: f1_score(labels, logits.argmax(1), average="macro", zero_division=0),
}


def test_scores_are_scikit_learns_under_every_composition(tmp_path):
    found = seen(small_convolutions(), (("Identity",), ("Contrast", "Invert")))
    rows = run(found, Metrics(metrics=tuple(ORACLES)), tmp_path)
    assert {(row.composition, row.metric) for row in rows} == {
        (name, metric) for name in ("Identity", "Contrast-Invert") for metric in ORACLES
    }
    assert {row.split for row in rows} == {"test"}
    for row in rows:
        labels = found.pictures.labels("test", row.composition, None)
        with torch.no_grad():
            logits = found.network(inputs(found, condition=row.composition)).double()
        assert row.value == pytest.approx(ORACLES[row.metric](labels.numpy(), logits.numpy()), abs=1e-9)


def test_fewer_images_are_the_first_of_every_class(tmp_path):
    found = seen(small_convolutions())
    (row,) = run(found, Metrics(metrics=("mcc",), images=20, split="valid"), tmp_path)
    labels = found.pictures.labels("valid", "Identity", 20)
    assert len(labels) == 20
    with torch.no_grad():
        answers = found.network(inputs(found, "valid", images=20)).argmax(1)
    assert (row.split, row.value) == ("valid", pytest.approx(matthews_corrcoef(labels, answers), abs=1e-9))


@pytest.mark.parametrize("names", [["accuracy"], ["mcc", "auc"], []])
def test_other_names_are_refused(names):
    with pytest.raises(ValueError, match="metrics: "):
        read_options("metrics", {"metrics": names})
