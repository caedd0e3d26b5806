"""Class means from one walk are those of every composition by itself; files are whole or not there, and say when they are damaged."""

import h5py
import numpy as np
import pytest
import torch

from analysis import walk
from analysis.activations import Sink, collect
from analysis.files import opened
from analysis.walk import Data
from data import datasets
from data.batches import ToNetwork
from data.compositions import compositions, parse
from data.corruptions import corrupt
from data.keys import evaluation_seed
from errors import InputError, RunError
from tests.analysis.systems import ROUTER, entry, system_of
from tests.train.runs import CPU
from train.evaluation import evaluate
from train.fields import Evaluation

pytestmark = pytest.mark.usefixtures("small_runs")
NAMES = ("ID", "CO", "IM-SW", "IM-SW-R90", "GB-IM-IN-R90")


def images_of(dataset, count, positions=None):
    split = dataset.test
    chosen = datasets.class_balanced(split, count) if positions is None else positions
    return datasets.Split(split.images[chosen], split.labels[chosen], split.ids[chosen])


def data_of(dataset, count=70, names=NAMES, severities=None, positions=None):
    found = tuple(parse(name) for name in names)
    return Data("FashionMNIST-mini", "test", images_of(dataset, count, positions), found, severities or {}, dataset.checksum)


def slowly(system, data, composition):
    """Penultimate units (N, U) in float64 and which images are right (N,), from the clean images."""
    images = corrupt(
        torch.from_numpy(data.images.images),
        composition,
        ids=torch.from_numpy(data.images.ids),
        seed=evaluation_seed(data.dataset, data.split),
        severities=data.severities,
    )
    inputs = ToNetwork(data.dataset, CPU)(images.to(torch.uint8))
    with torch.no_grad():
        units, logits = system.activate(system.restore(inputs, composition), composition)
    return units.double().numpy(), (logits.argmax(1).numpy() == data.images.labels)


@pytest.fixture
def systems():
    fields = [entry("CrossEntropy"), entry("ModularSystem"), entry("ImgSpaceIdentity"), entry("ModularSystem", **ROUTER)]
    return [system_of(one) for one in fields]


@pytest.mark.parametrize("chunk", [250, 9, 1])
@pytest.mark.parametrize("severities", [{}, {"GaussianBlur": 5}])
def test_one_walk_gives_the_means_and_maxima_of_every_composition(tmp_path, monkeypatch, small, systems, chunk, severities):
    monkeypatch.setattr(walk, "CHUNK", chunk)
    # Not class by class, and not as many of each.
    positions = np.random.default_rng(0).permutation(2000)[:67]
    data = data_of(small, severities=severities, positions=positions)
    paths = [tmp_path / f"{number}.h5" for number in range(len(systems))]
    ticks = []
    collect(systems, data, paths, CPU, lambda: ticks.append(1))
    assert len(ticks) == len(NAMES) * -(-67 // chunk)
    counts = np.bincount(data.images.labels, minlength=10)
    assert len(set(counts)) > 1
    for system, path in zip(systems, paths, strict=True):
        with h5py.File(path) as file:
            assert file["class_count"][()].tolist() == counts.tolist()
            assert sorted(file["ids"][()]) == sorted(data.images.ids)
            assert (file["mean"].dtype, file["mean"].shape) == (np.float32, (len(NAMES), 10, 128))
            for place, composition in enumerate(data.compositions):
                assert file["composition"].asstr()[place] == "-".join(composition)
                units, right = slowly(system, data, composition)
                means = np.stack([units[data.images.labels == label].mean(axis=0) for label in range(10)])
                np.testing.assert_allclose(file["mean"][place], means, rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(file["max"][place], units.max(axis=0), rtol=1e-4, atol=1e-5)
                assert file["accuracy"][place] == pytest.approx(right.mean(), abs=1.01 / 67)


def test_accuracies_are_those_of_the_evaluation(tmp_path, small, systems):
    names = compositions("167")[::12]
    data = data_of(small, count=100, names=names)
    wanted = Evaluation(images=100, compositions=tuple("-".join(name) for name in names))
    paths = [tmp_path / f"{number}.h5" for number in range(len(systems))]
    collect(systems, data, paths, CPU)
    positions = datasets.class_balanced(small.test, 100)
    for outcome, path in zip(evaluate(systems, small, wanted, positions, CPU), paths, strict=True):
        with opened(path) as found:
            np.testing.assert_array_equal(found.accuracy_c, outcome.correct_cn.mean(axis=1))
            assert found.images == 100


def test_systems_of_one_restoration_share_it(tmp_path, monkeypatch, small):
    pair = [system_of(entry("ImgSpaceIdentity")), system_of(entry("ImgSpaceJoint"))]
    assert pair[0].restoration == pair[1].restoration
    calls = []
    for system in pair:
        restore = system.restore
        monkeypatch.setattr(system, "restore", lambda images, names, restore=restore: calls.append(names) or restore(images, names))
    data = data_of(small)
    collect(pair, data, [tmp_path / "a.h5", tmp_path / "b.h5"], CPU)
    assert sorted(calls) == sorted(data.compositions)


def test_a_class_without_images_has_means_of_zero(tmp_path, small, systems):
    positions = np.flatnonzero(np.isin(small.test.labels, [2, 5]))[::40]
    collect(systems[:1], data_of(small, positions=positions), [tmp_path / "a.h5"], CPU)
    with h5py.File(tmp_path / "a.h5") as file:
        assert (file["mean"][()].any(axis=(0, 2)) == (file["class_count"][()] > 0)).all()
        assert file["class_count"][()].nonzero()[0].tolist() == [2, 5]


@pytest.mark.parametrize("chunk", [250, 9])
def test_sums_are_float64(tmp_path, monkeypatch, small, chunk):
    """Ones beside a large number: summed in float32 the ones are lost, in a chunk and from chunk to chunk."""
    monkeypatch.setattr(walk, "CHUNK", chunk)

    class Ones:
        restoration = None

        def restore(self, images, composition):
            return images

        def activate(self, images, composition):
            units = torch.ones(len(images), 1)
            units[0] = 1.0 if seen else 2.0**24
            seen.append(True)
            return walk.Activations(units, torch.zeros(len(images), 10))

    seen = []
    positions = np.flatnonzero(small.test.labels == 0)
    collect([Ones()], data_of(small, positions=positions, names=["ID"]), [tmp_path / "a.h5"], CPU)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["mean"][0, 0, 0] == np.float32((2**24 + len(positions) - 1) / len(positions))


def test_a_file_is_whole_or_not_there(tmp_path, small, systems):
    paths = [tmp_path / "folder" / name for name in ("a.h5", "b.h5")]
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(systems[:2], data_of(small), paths, CPU, stop)
    assert list(paths[0].parent.iterdir()) == []
    collect(systems[:2], data_of(small), paths, CPU)
    assert sorted(paths[0].parent.iterdir()) == paths


def test_what_cannot_be_written_and_what_is_damaged_is_one_line(tmp_path, small, systems):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/a\.h5: cannot be written"):
        collect(systems[:1], data_of(small), [tmp_path / "file" / "a.h5"], CPU)
    path = tmp_path / "a.h5"
    collect(systems[:1], data_of(small), [path], CPU)
    whole = path.read_bytes()
    for torn in (whole[: len(whole) // 2], b"", b"junk" * 100):
        path.write_bytes(torn)
        with (
            pytest.raises(InputError, match=r"a\.h5: damaged, or of another version; delete it and make it again with: python -m analysis"),
            opened(path),
        ):
            pass
    path.write_bytes(whole)
    with h5py.File(path, "a") as file:
        file.attrs["format"] = 0
    with pytest.raises(InputError, match="another version"), opened(path):
        pass
    with pytest.raises(InputError, match="missing"), opened(tmp_path / "none.h5"):
        pass


def test_memory_does_not_grow_with_classes_that_are_finished(tmp_path, monkeypatch, small, systems):
    monkeypatch.setattr(walk, "CHUNK", 10)
    held = []
    close_classes = Sink.close_classes

    def spy(self, last):
        held.append(self.chunk.sums_cku.shape[1])
        close_classes(self, last)

    monkeypatch.setattr(Sink, "close_classes", spy)
    collect(systems[:1], data_of(small, count=100), [tmp_path / "a.h5"], CPU)
    assert held == [1] * 10
