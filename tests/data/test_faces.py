"""FaceScrub from a user's folder and ORL: the order of the images, the split by identity, and what is refused."""

import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import info_dicts
from data import datasets, files
from data.__main__ import main
from data.content import SPLITS
from data.datasets import load, prepare, split_by_fraction, split_count
from errors import InputError
from tests.data.synthetic import encoded, random_orl

FACTS = {str(choice): choice for choice in info_dicts.DATASETS.values()}
# The files of the first identity in their order; every other identity has 1, 2 and 3, the last has twenty-one.
FIRST = ("01", "1", "2", "9", "10", "11", "100")
LAST = 487


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(3, 12))
def test_split_by_fraction_is_the_plain_loop(labels, one_in):
    expected = {split: [] for split in SPLITS}
    for label in sorted(set(labels)):
        ids = [index for index, other in enumerate(labels) if other == label]
        held = math.ceil(Fraction(len(ids), one_in))
        if len(ids) <= 2 * held:
            with pytest.raises(InputError, match=f"class {label} has {len(ids)} images"):
                split_by_fraction(np.array(labels), one_in)
            return
        for split, part in zip(SPLITS, (ids[: -2 * held], ids[-2 * held : -held], ids[-held:])):
            expected[split] += part
    found = split_by_fraction(np.array(labels), one_in)
    assert {split: ids.tolist() for split, ids in found.items()} == expected
    assert {ids.dtype for ids in found.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize(("n", "held"), [(3, 1), (10, 1), (11, 2), (20, 2), (21, 3), (70, 7), (129, 13), (130, 13)])
def test_a_tenth_is_rounded_up_exactly(n, held):
    parts = split_by_fraction(np.zeros(n, np.int64), one_in=10)
    assert [len(parts[split]) for split in SPLITS] == [n - 2 * held, held, held]


def colour(identity: int, number: str) -> tuple[int, int, int]:
    return identity % 200 + 20, int(number) * 2 + 10, 40 * len(number)


def files_of(identity: int) -> tuple[str, ...]:
    return {100: FIRST, LAST: tuple(str(number) for number in range(1, 22))}.get(identity, ("1", "2", "3"))


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """One plain JPEG per file of a whole copy; 101_2.jpg is larger by one and has a pattern."""
    folder = tmp_path_factory.mktemp("originals")
    for identity in range(100, LAST + 1):
        for number in files_of(identity):
            plain = np.full((100, 100, 3), colour(identity, number), np.uint8)
            (folder / f"{identity}_{number}.jpg").write_bytes(encoded(plain, "JPEG", subsampling=0))
    pattern = np.random.default_rng(0).integers(0, 256, (101, 101, 3), dtype=np.uint8)
    (folder / "101_2.jpg").write_bytes(encoded(pattern, "JPEG"))
    return folder


def link_all(originals: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for path in originals.iterdir():
        os.link(path, folder / path.name)
    return folder


def put(path: Path, content: bytes) -> None:
    """A new file, in place of a link to an original."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("layout", ["FaceScrub", "."])
def test_facescrub_from_a_directory(originals, tmp_path, monkeypatch, capsys, layout):
    folder = link_all(originals, tmp_path / "in" / layout)
    for passed_over in ("faces.npz", ".DS_Store"):
        (folder / passed_over).write_bytes(b"")
    (folder / "notes").mkdir()
    monkeypatch.setenv("PALIMPSEST_DATA", str(tmp_path / "root"))
    assert [split_count("FaceScrub", split) for split in SPLITS] == [None] * 3
    assert main(["prepare", "5", "--source", str(tmp_path / "in")]) == 0
    data = load("FaceScrub")
    names = [(identity, number) for identity in range(100, LAST + 1) for number in files_of(identity)]
    seen = []
    for name in SPLITS:
        split = data.split(name)
        assert split.images.shape[1:] == (3, 100, 100)
        assert split_count("FaceScrub", name) == len(split)
        for image, label, index in zip(split.images, split.labels, split.ids):
            identity, number = names[index]
            assert label == identity - 100
            seen.append(index)
            if (identity, number) == (101, "2"):
                with Image.open(originals / "101_2.jpg") as jpeg:
                    np.testing.assert_array_equal(image, np.asarray(jpeg)[:100, :100].transpose(2, 0, 1))
            else:
                assert np.abs(image[:, 50, 50].astype(int) - colour(identity, number)).max() <= 3
    assert sorted(seen) == list(range(len(names)))
    numbers = {name: [names[index][1] for index in data.split(name).ids if names[index][0] == 100] for name in SPLITS}
    assert numbers == {"train": list(FIRST[:5]), "valid": ["11"], "test": ["100"]}
    assert [np.count_nonzero(data.split(name).labels == LAST - 100) for name in SPLITS] == [15, 3, 3]
    capsys.readouterr()
    assert main(["check", "FaceScrub"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["train", "5", *["1"] * 9]
    assert lines[-4].split() == ["train", *["1"] * 7, "15", str(len(data.train)), "-"]
    assert lines[-1] == f"SHA-256 {data.checksum} (no pin)"
    monkeypatch.setitem(info_dicts.DATASETS, 5, info_dicts.Choice("FaceScrub", **{**FACTS["FaceScrub"].facts, "shape": (3, 64, 64)}))
    with pytest.raises(InputError, match=r"train has shape \(\d+, 3, 100, 100\), the menu says \(\d+, 3, 64, 64\)"):
        prepare("FaceScrub", str(tmp_path / "in"), tmp_path / "other")


def jpeg(height: int, width: int) -> bytes:
    return encoded(np.zeros((height, width, 3), np.uint8), "JPEG")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("100_5.jpg", jpeg(100, 101), "it is 101x100"),
        ("230_1.jpg", jpeg(102, 102), "it is 102x102"),
        ("487_3.jpg", jpeg(64, 64), "it is 64x64"),
        ("300_2.jpg", b"", "no readable JPEG"),
        ("300_2.jpg", jpeg(100, 100)[:400], "no readable JPEG"),
        ("99_1.jpg", jpeg(100, 100), "no such id"),
        ("488_1.jpg", jpeg(100, 100), "no such id"),
        ("100_1.png", jpeg(100, 100), "another form"),
        ("100-4.jpg", jpeg(100, 100), "another form"),
        ("0100_4.jpg", jpeg(100, 100), "another form"),
        ("100_4.jpg.txt", b"", "another form"),
        ("Some_Actor.jpg", jpeg(100, 100), "another form"),
    ],
)
def test_what_is_no_face_is_named(originals, tmp_path, name, content, reason):
    folder = link_all(originals, tmp_path / "in" / "FaceScrub")
    put(folder / name, content)
    with pytest.raises(InputError) as error:
        prepare("FaceScrub", str(tmp_path / "in"), tmp_path / "root")
    for part in (f"{folder / name}: ", reason, "expected is DIR/FaceScrub/<id>_<n>.jpg", "ids 100 to 487"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(("left", "count"), [((), "0 images"), (("1", "3"), "2 images")])
def test_an_identity_that_is_missing_or_too_small_is_named(originals, tmp_path, left, count):
    folder = link_all(originals, tmp_path / "FaceScrub")
    for number in {"1", "2", "3"} - set(left):
        (folder / f"311_{number}.jpg").unlink()
    with pytest.raises(InputError, match=rf"311_<n>\.jpg: {count} .* 3 are needed; expected is DIR/FaceScrub"):
        prepare("FaceScrub", str(tmp_path), tmp_path / "root")


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("split", SPLITS)
def test_split_count_is_the_menus_where_it_has_one(tmp_path, name, split):
    counts = FACTS[name].counts
    assert split_count(name, split, tmp_path) == (counts[SPLITS.index(split)] if counts else None)


def test_split_count_refuses_what_is_not_there_and_needs_no_torch(tmp_path):
    with pytest.raises(ValueError, match="allowed: train, valid, test"):
        split_count("FaceScrub", "dev", tmp_path)
    with pytest.raises(InputError, match="no data set 'Faces'"):
        split_count("Faces", "test", tmp_path)
    (tmp_path / "FaceScrub.h5").write_bytes(b"damaged")
    assert split_count("FaceScrub", "test", tmp_path) is None
    code = "import sys; from data.datasets import split_count; split_count('FaceScrub', 'test'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=files.ROOT, check=False).returncode == 0


def test_orl_is_split_by_person_and_padded(monkeypatch, tmp_path):
    images, files = random_orl()
    for name, content in files.items():
        (tmp_path / "in" / "ORL_faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "ORL_faces" / name).write_bytes(content)
    with pytest.raises(InputError, match="not the published ones"):
        prepare("ORL", str(tmp_path / "in"), tmp_path)
    monkeypatch.delitem(datasets.CONTENT_SHA256, "ORL")
    data = prepare("ORL", str(tmp_path / "in"), tmp_path)
    for split, places in (("train", range(6)), ("valid", (6, 7)), ("test", (8, 9))):
        ids = [10 * person + place for person in range(40) for place in places]
        found = data.split(split)
        assert found.ids.tolist() == ids
        assert found.labels.tolist() == [index // 10 for index in ids]
        np.testing.assert_array_equal(found.images[:, 0, :, 10:102], images[ids])
        assert not found.images[..., :10].any()
        assert not found.images[..., 102:].any()
        assert found.images.shape == (len(ids), 1, 112, 112)


def prepared_orl() -> datasets.DataSet:
    if not datasets.cache_path("ORL").exists():
        pytest.skip("ORL is not prepared")
    return load("ORL")


def test_the_menu_has_the_mean_and_deviation_of_orl():
    pixels = prepared_orl().train.images / np.float64(255)
    assert FACTS["ORL"].mean == (round(pixels.mean(), 8),)
    assert FACTS["ORL"].std == (round(pixels.std(), 8),)
