"""Every data set's classes have names; those that torchvision knows are its."""

import pytest

import info_dicts
from data.class_names import class_names
from data.torchvision_import import import_torchvision

torchvision = import_torchvision()


@pytest.mark.parametrize("dataset", info_dicts.DATASETS.values())
def test_every_class_has_a_name_of_its_own(dataset):
    names = class_names(dataset)
    assert len(set(names)) == len(names) == dataset.classes
    assert all(isinstance(name, str) and name for name in names)


def test_names_are_torchvisions():
    known = torchvision.datasets
    assert list(class_names("FashionMNIST")) == list(class_names("FashionMNIST-mini")) == known.FashionMNIST.classes
    assert list(class_names("EMNIST")) == known.EMNIST.classes_split_dict["balanced"]
    assert [name[0] for name in known.MNIST.classes] == list(class_names("MNIST"))


def test_a_data_set_without_names_has_its_labels(monkeypatch):
    monkeypatch.setitem(info_dicts.DATASETS, 99, info_dicts.Choice("Stripes", classes=2))
    assert class_names("Stripes") == ("0", "1")
