import hashlib
import itertools
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import info_dicts
from data import compositions as c
from data.compositions import abbreviate, compositions, load_list, n_corruptions, parse, prefix_tree
from errors import InputError

names = st.permutations(c.ELEMENTALS).flatmap(lambda order: st.integers(1, 6).map(lambda size: tuple(order[:size])))


def nodes(tree):
    return [tree, *itertools.chain.from_iterable(nodes(child) for child in tree.children)]


def test_elementals_are_the_published_six_in_alphabetical_order():
    assert list(c.ELEMENTALS) == sorted(c.ELEMENTALS)
    assert set(c.ELEMENTALS) == {str(info_dicts.CORRUPTIONS[number]) for number in range(1, 7)}


@pytest.mark.parametrize(
    "written", ["CO-GB-IM", "Contrast-GaussianBlur-ImpulseNoise", "1-2-3", [1, 2, 3], ("CO", 2, "ImpulseNoise"), "ID-CO-GB-ID-IM"]
)
def test_every_way_to_write_a_composition(written):
    assert parse(written) == ("Contrast", "GaussianBlur", "ImpulseNoise")
    assert abbreviate(written) == "CO-GB-IM"
    assert n_corruptions(written) == 3


@pytest.mark.parametrize("written", ["ID", "Identity", "0", 0, ["Identity"], ("ID", "ID")])
def test_identity_has_no_corruptions(written):
    assert parse(written) == ("Identity",)
    assert n_corruptions(written) == 0


@given(names)
def test_abbreviations_are_read_back(composition):
    assert parse(abbreviate(composition)) == composition == parse("-".join(composition))
    assert all(type(name) is str for name in parse(list(composition)))


@pytest.mark.parametrize("choice", info_dicts.CORRUPTIONS.values())
def test_every_corruption_of_the_menu_is_read_by_name_and_abbreviation(choice):
    assert parse(choice) == parse(choice.abbreviation) == (str(choice),)


@pytest.mark.parametrize(
    ("written", "message"),
    [("CO-XX", "allowed: Identity (ID, 0), Contrast (CO, 1)"), ("co", "unknown"), (99, "unknown"), (True, "unknown"), ("CO-", "unknown"), ("CO-GB-CO", "repeats"), ("CO-1", "repeats"), ("", "empty"), ([], "empty")],
)  # fmt: skip
def test_what_is_refused(written, message):
    with pytest.raises(InputError) as caught:
        parse(written)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_167_are_the_published_ones():
    sampled = c.sample_167()
    assert len(sampled) == len(set(sampled)) == 167
    assert [n_corruptions(composition) for composition in sampled] == [0] + [1] * 6 + [2] * 30 + [3] * 40 + [4] * 30 + [5] * 30 + [6] * 30
    assert Counter(itertools.chain.from_iterable(sampled)) == dict.fromkeys(c.ELEMENTALS, 106) | {"Identity": 1}
    assert set(map(len, map(set, sampled))) == {1, 2, 3, 4, 5, 6}
    assert len({frozenset(composition) - {"Identity"} for composition in sampled}) == 64
    assert set(sampled[7:37]) == set(itertools.permutations(c.ELEMENTALS, 2))
    sampled_orders = " ".join(map(abbreviate, sampled[37:]))
    assert sampled_orders.startswith("GB-CO-IM CO-IM-GB GB-IN-CO IN-GB-CO CO-GB-R90 ")
    assert " R90-SW-IN CO-GB-IM-IN GB-IM-CO-IN " in sampled_orders
    assert " IM-R90-IN-SW R90-GB-IN-CO-IM " in sampled_orders
    assert " GB-SW-IN-R90-IM GB-CO-R90-SW-IN-IM " in sampled_orders
    assert sampled_orders.endswith(" IN-SW-GB-IM-CO-R90 CO-IM-GB-SW-IN-R90")
    assert hashlib.sha256(sampled_orders.encode()).hexdigest() == "25caef7a056f738017a02b97a77baa0bfcbf55ac8e737d085e4a014193bdb509"


def test_sampling_leaves_the_global_generator_alone():
    import random

    random.seed(5)
    expected = random.random()
    random.seed(5)
    c.sample_167()
    assert random.random() == expected


def test_the_committed_list_is_the_sampled_one():
    assert load_list(c.PUBLISHED_LIST) == c.sample_167() == compositions("167")
    lines = c.PUBLISHED_LIST.read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [abbreviate(composition) for composition in c.sample_167()]


def test_all_compositions():
    everything = compositions("1957")
    assert len(everything) == len(set(everything)) == 1957
    assert everything[0] == ("Identity",)
    assert set(c.sample_167()) <= set(everything)
    assert Counter(map(n_corruptions, everything)) == {0: 1, 1: 6, 2: 30, 3: 120, 4: 360, 5: 720, 6: 720}
    assert c.all_compositions(["Invert", "Swirl"]) == [("Identity",), ("Invert",), ("Swirl",), ("Invert", "Swirl"), ("Swirl", "Invert")]


def test_a_list_may_be_named_written_or_read_from_a_file(tmp_path):
    assert compositions("elementals") == [("Identity",), *((name,) for name in c.ELEMENTALS)]
    assert compositions(["IN-SW", [0]]) == [("Invert", "Swirl"), ("Identity",)]
    (tmp_path / "some.txt").write_text("# two\n\n  IN-SW \nIdentity\n")
    assert compositions(str(tmp_path / "some.txt")) == [("Invert", "Swirl"), ("Identity",)]


@pytest.mark.parametrize(
    ("text", "message"),
    [("CO\n\nXX\n", "line 3: unknown"), ("CO-IN\nIN-CO\nContrast-Invert", "line 3: CO-IN was already given"), ("# none\n", "empty")],
)
def test_errors_in_a_file_name_the_line(tmp_path, text, message):
    (tmp_path / "some.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        load_list(tmp_path / "some.txt")


@pytest.mark.parametrize("spec", ["168", "missing.txt", [], ["CO", "CO"], ["ID-CO", "CO"], ["CO-GB", "XX"]])
def test_wrong_lists_are_refused(spec):
    with pytest.raises(InputError):
        compositions(spec)


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "some.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "some.txt", tmp_path / "missing.txt"):
        with pytest.raises(InputError, match="cannot be read"):
            load_list(path)


def test_prefix_tree_of_the_167_has_294_corrupted_nodes():
    """The published 294 leave out the root and the Identity leaf."""
    compositions_167 = c.sample_167()
    every = nodes(prefix_tree(compositions_167))
    assert Counter(node.name for node in every) == {
        "": 1, "Identity": 1, "Contrast": 49, "GaussianBlur": 46, "ImpulseNoise": 49, "Invert": 45, "Rotate90": 56, "Swirl": 49,
    }  # fmt: skip
    assert sum(map(n_corruptions, compositions_167)) == 636


@given(st.lists(names, unique=True, max_size=30))
def test_prefix_tree_holds_every_prefix_once_and_every_composition(chosen):
    every = nodes(prefix_tree(chosen))
    prefixes = {composition[:size] for composition in chosen for size in range(len(composition) + 1)} | {()}
    assert Counter(node.prefix for node in every) == dict.fromkeys(prefixes, 1)
    assert {node.index: node.prefix for node in every if node.index is not None} == dict(enumerate(chosen))
    for node in every:
        assert all(child.prefix == (*node.prefix, child.name) for child in node.children)


def test_prefix_tree_refuses_doubles():
    with pytest.raises(ValueError, match="CO-IN is given twice"):
        prefix_tree(["CO-IN", "IN", "Contrast-Invert"])


def test_reading_compositions_loads_neither_torch_nor_numpy():
    code = "import sys; from data.compositions import compositions; compositions('167'); assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
