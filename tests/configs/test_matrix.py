"""A matrix: entries whose values may be lists stand for all combinations, which are written as a flat list."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from configs.__main__ import main
from configs.matrix import expand, flatten
from configs.representation import REPRESENTATION
from errors import InputError
from train.build import build
from train.fields import FieldError
from train.lists import read

values = st.one_of(st.integers(), st.booleans(), st.text(max_size=3))
fields = st.dictionaries(
    st.text("abcd", min_size=1, max_size=3), st.one_of(values, st.lists(values, min_size=1, max_size=3)), min_size=1, max_size=4
)


@given(fields, fields)
def test_it_is_the_product_of_all_values_the_last_one_fastest(outer, inner):
    found = expand(outer | {"backbone": inner})
    lengths = [len(own) if isinstance(own, list) else 1 for own in (*outer.values(), *inner.values())]
    assert len(found) == math.prod(lengths)
    for key, own in outer.items():
        assert {repr(entry[key]) for entry in found} == {repr(value) for value in (own if isinstance(own, list) else [own])}
    for entry in found:
        assert list(entry) == [*outer, "backbone"]
        assert list(entry["backbone"]) == list(inner)
        assert not any(isinstance(value, list) for value in (*list(entry.values())[:-1], *entry["backbone"].values()))
    last, own = list(inner.items())[-1]
    if isinstance(own, list):
        assert [entry["backbone"][last] for entry in found[: len(own)]] == own


def test_fields_that_are_lists_vary_as_lists_of_lists():
    one = {"corruptions": ["Swirl", "Invert"], "analyses": {"saturation": {"delta": [0.9, 0.99]}}, "tags": ["a", "b"]}
    assert expand(one) == [one]
    many = {"corruptions": [["Swirl"], ["Invert", "Swirl"]], "analyses": {"saturation": {"delta": [[0.9], [0.99, 0.9]]}}}
    assert expand(many) == [
        {"corruptions": corruptions, "analyses": {"saturation": {"delta": delta}}}
        for corruptions in (["Swirl"], ["Invert", "Swirl"])
        for delta in ([0.9], [0.99, 0.9])
    ]


def test_an_empty_list_and_what_is_no_mapping_are_refused():
    with pytest.raises(FieldError, match=r"backbone\.lr: is an empty list"):
        expand({"backbone": {"lr": []}})
    with pytest.raises(FieldError, match="must be a mapping of keys"):
        expand([1])


def test_equal_experiments_stand_once_and_errors_name_the_entry():
    entry = {"dataset": 0, "method": "Identity", "lr": [0.1, 0.2]}
    assert [len(entries) for _, entries in flatten("m.yaml", [entry, entry | {"lr": [0.2, 0.3]}])] == [2, 1]
    with pytest.raises(InputError, match=r"m\.yaml: entry 1: lr"):
        flatten("m.yaml", [entry, entry | {"lr": [0.1, -1]}])


def test_the_command_writes_a_list_that_is_read_as_the_same_experiments(tmp_path, capsys):
    matrix, out = tmp_path / "matrix.yaml", tmp_path / "flat.yaml"
    entry = {"dataset": 0, "method": ["Identity", "CrossEntropy"], "lr": [0.1, 0.2], "analyses": {"probes": {"pooling": [4, 1]}}}
    matrix.write_text(yaml.safe_dump([entry], sort_keys=False))
    assert main(["matrix", str(matrix), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert [line.count("python -m configs matrix") for line in out.read_text().splitlines()[:3]] == [0, 1, 0]
    found = [own.experiment for own in read(out)]
    # What is looked at changes no experiment.
    assert [e.hash for e in found] == [
        build({"dataset": 0, "method": m, "lr": lr}).hash for m in ("Identity", "CrossEntropy") for lr in (0.1, 0.2)
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["matrix"], "matrix: names no file; write: python -m configs matrix MATRIX.yaml --out FILE.yaml"),
        (["matrix", "--out", "OUT"], "matrix: names no file"),
        (["matrix", "MATRIX"], "--out is missing; write: python -m configs matrix "),
        (["demo", "MATRIX", "--out", "OUT"], "a file goes with `matrix`"),
        (["matrix", "MATRIX", "--out", "MATRIX"], "is the matrix itself"),
        (["matrix", "MATRIX", "--lr=1", "--out", "OUT"], "what varies stands in"),
        (["matrix", "GONE", "--out", "OUT"], "cannot be read as a list"),
    ],
)
def test_what_is_wrong_with_a_command_is_one_line(tmp_path, capsys, arguments, said):
    (tmp_path / "m.yaml").write_text("- {dataset: 0, method: Identity, lr: 0.1}\n")
    places = {"OUT": tmp_path / "out.yaml", "MATRIX": tmp_path / "m.yaml", "GONE": tmp_path / "gone.yaml"}
    assert main([str(places.get(word, word)) for word in arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out.yaml").exists()


def test_entries_that_differ_in_what_is_looked_at_alone_are_refused():
    entry = {"dataset": 0, "method": "Identity", "lr": 0.1, "analyses": {"probes": {"pooling": [[1], [4, 1]]}}}
    with pytest.raises(InputError, match=r"m\.yaml: entry 0: analyses: differ between two entries of one experiment"):
        flatten("m.yaml", [entry])
    # The same twice is the same.
    assert [len(entries) for _, entries in flatten("m.yaml", [{**entry, "analyses": {"probes": {"pooling": 4}}}] * 2)] == [1]


@pytest.mark.parametrize("name", REPRESENTATION)
def test_a_committed_list_varies_by_seed(name):
    blocks = REPRESENTATION[name].entries(name, {"seed": [7, 8]})
    assert {entry["seed"] for _, entries in blocks for entry in entries} == {7, 8}
