"""Draws: exact fractions, independent cues, seeds; and the rules that mechanisms obey."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import info_dicts
from data.cues.scene import Draws
from data.mechanisms import Mechanism, check, mechanism_name, read_mechanism, short_name


def draws(seed=0, split="train", epoch=0):
    return Draws("Dominoes", split, seed, epoch)


@given(
    fraction=st.floats(0, 1),
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=6),
    seed=st.integers(0, 5),
)
def test_of_every_class_the_rounded_fraction_carries_a_cue(fraction, counts, seed):
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    carriers = draws(seed).carriers("box", labels, fraction)
    assert carriers.dtype == torch.bool
    for label, count in enumerate(counts):
        assert int(carriers[labels == label].sum()) == round(count * fraction)


@given(low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_larger_fraction_keeps_the_carriers_of_a_smaller_one(low, high):
    labels = torch.arange(200) % 7
    low, high = min(low, high), max(low, high)
    few, many = (draws().carriers("box", labels, fraction) for fraction in (low, high))
    assert (many | ~few).all()


def test_cues_are_carried_independently():
    labels = torch.arange(20_000) % 10
    box, upper = (draws().carriers(what, labels, fraction) for what, fraction in (("box", 0.3), ("FashionMNIST", 0.6)))
    both = (box & upper).double().mean()
    # Standard deviation sqrt(0.18 * 0.82 / 20000) = 0.0027; nested draws would give 0.3.
    assert abs(both - 0.18) < 0.012
    assert (box.double().mean(), upper.double().mean()) == (0.3, 0.6)


def test_draws_depend_on_split_seed_and_subject_and_not_on_who_asks():
    labels = torch.arange(400) % 10
    first = draws().carriers("box", labels, 0.5)
    torch.manual_seed(5)
    assert torch.equal(first, draws().carriers("box", labels, 0.5))
    assert torch.equal(first, draws(epoch=3).carriers("box", labels, 0.5))
    for other in (draws(seed=1), draws(split="test"), draws(seed="evaluation")):
        assert not torch.equal(first, other.carriers("box", labels, 0.5))
    assert not torch.equal(first, draws().carriers("colour", labels, 0.5))


def test_partners_of_the_same_class_are_uniform_and_of_the_class():
    labels = torch.arange(5_000) % 5
    partners = draws().same_class("upper", labels)
    assert torch.equal(labels[partners], labels)
    assert partners.unique().numel() > 0.58 * len(labels)  # 1 - 1/e = 63 % are drawn at least once
    assert not torch.equal(partners, draws(epoch=1).same_class("upper", labels))


@pytest.mark.parametrize(
    ("dataset", "value", "words"),
    [
        ("Dominoes", "Boxx", "'Boxx' is no mechanism of Dominoes; allowed: 0 CIFAR10, 1 FashionMNIST, 2 Box"),
        ("Dominoes", 99, "99 is no mechanism of Dominoes"),
        ("Dominoes", True, "True is no mechanism"),
        ("ORL", 0, "ORL carries no cues; data sets that do: FashionMNIST-mini"),
        ("Dominoes", [1, 0, 0], r"must be six numbers .*, got \[1, 0, 0\]"),
        ("Dominoes", [1, 2, 0, 0, 0, 0], r"fractions are from 0 to 1, got \[1.0, 2.0, 0.0\]"),
        ("Dominoes", [1, 1, 0, 0.5, 0, 0], "the last three numbers are 0 or 1"),
        ("CIFAR10", ["a", 1, 0, 0, 0, 0], "must be six numbers"),
        ("FashionMNIST-mini", [1, 1, 1, 0, 0, 0], r"FashionMNIST-mini has one cue \(box\), so the numbers of cue 2 must be 0"),
    ],
)
def test_what_is_no_mechanism_is_refused_in_words(dataset, value, words):
    with pytest.raises(ValueError, match=words):
        read_mechanism(dataset, value)


def test_names_numbers_and_six_numbers_mean_the_same():
    for dataset, menu in info_dicts.MECHANISMS.items():
        if dataset not in {str(name) for name in info_dicts.DATASETS.values()}:
            continue
        for number, name in menu.items():
            found = read_mechanism(dataset, number)
            assert found == read_mechanism(dataset, str(name)) == read_mechanism(dataset, list(name.numbers)) == Mechanism(*name.numbers)
            assert (mechanism_name(dataset, found), short_name(dataset, found)) == (name, name.short)
        numbers = [name.numbers for name in menu.values()]
        assert len(set(numbers)) == len(numbers)
        assert len({name.short for name in menu.values()}) == len(numbers)
    odd = Mechanism(1, 0.25, 0, 0, 0, 0)
    assert mechanism_name("Dominoes", odd) == short_name("Dominoes", odd) == "1_0.25_0_0_0_0"


def test_features_are_what_tells_the_class():
    assert Mechanism(1, 0.3, 1, 0, 0, 1).features() == {"content", "cue_1"}
    assert Mechanism(1, 0, 1, 1, 0, 0).features() == {"cue_2"}
    assert check("Dominoes", Mechanism(1, 1, 0.5).scaled(0.5)) == Mechanism(1, 0.5, 0.25)
