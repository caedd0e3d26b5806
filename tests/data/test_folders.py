"""Folders of images: every layout, what becomes of an image of any mode and size, one file that is mapped, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from data import datasets, folders
from data.__main__ import main
from data.facts import dataset_choice
from data.folders import folder_choice, parse_folder, read_image, scan
from errors import InputError
from plots.results import load as load_results
from train.build import build
from train.fields import FieldError
from train.runner import run_experiment

ROOT = Path(__file__).resolve().parents[2]
# Suffix and mode, over and over; (height, width) is another at every image.
KINDS = [("png", "RGB"), ("JPG", "L"), ("bmp", "RGB"), ("png", "P"), ("jpeg", "CMYK"), ("png", "RGBA"), ("webp", "RGB"), ("ppm", "RGB"), ("png", "LA"), ("png", "1")]  # fmt: skip
SIZES = [(20, 20), (31, 17), (16, 45), (64, 64), (12, 13)]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty data root."""
    monkeypatch.setenv("PALIMPSEST_DATA", str(tmp_path / "root"))
    return tmp_path / "root"


def write_image(path, number, kind=None):
    """A picture that follows from a number: noise on a colour."""
    suffix, mode = kind or KINDS[number % len(KINDS)]
    draw = np.random.default_rng(number)
    height, width = SIZES[number % len(SIZES)]
    levels = np.clip(draw.integers(0, 200, 3) + draw.integers(0, 56, (height, width, 3)), 0, 255).astype(np.uint8)
    path = path.with_suffix(f".{suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).convert(mode).save(path)
    return path


def write_classes(part, counts, start=0):
    """So many images of every class (a path), and the paths in the order of their names, class by class."""
    found = {}
    for name, count in counts.items():
        found[name] = [write_image(part / name / f"{number:03d}", start + 100 * len(found) + number) for number in range(count)]
    return found


COUNTS = {"cats": 21, "dogs/large": 12, "dogs/small": 3}


@pytest.fixture
def pets(tmp_path):
    """A folder with a train and a val part, and other files beside the images."""
    source = tmp_path / "pets"
    write_classes(source / "train", COUNTS)
    write_classes(source / "val", dict.fromkeys(COUNTS, 4), 1000)
    (source / "train" / "cats" / "notes.txt").write_text("no image")
    (source / "LICENSE").write_text("")
    return source


def by_hand(path, pixels):
    """The shorter side at so many pixels, and the middle."""
    with Image.open(path) as image:
        rgb = image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
    width, height = rgb.size
    if width < height:
        rgb = rgb.resize((pixels, round(height * pixels / width)), Image.Resampling.BILINEAR)
    else:
        rgb = rgb.resize((round(width * pixels / height), pixels), Image.Resampling.BILINEAR)
    levels = np.asarray(rgb)
    top, left = (levels.shape[0] - pixels) // 2, (levels.shape[1] - pixels) // 2
    return levels[top : top + pixels, left : left + pixels].transpose(2, 0, 1)


def files_of(part, classes):
    return [sorted(path for path in (part / name).iterdir() if path.suffix != ".txt") for name in classes]


def test_a_folder_with_parts(pets, root):
    data = datasets.prepare("folder:pets@10", str(pets))
    train, test = files_of(pets / "train", COUNTS), files_of(pets / "val", COUNTS)
    # The last tenth of each class, rounded up: 3, 2 and 1.
    expected = {
        "train": [(path, label) for label, paths in enumerate(train) for path in paths[: (18, 10, 2)[label]]],
        "valid": [(path, label) for label, paths in enumerate(train) for path in paths[(18, 10, 2)[label] :]],
        "test": [(path, label) for label, paths in enumerate(test) for path in paths],
    }
    official = {"train": [path for paths in train for path in paths], "test": [path for paths in test for path in paths]}
    for split, pairs in expected.items():
        own = data.split(split)
        assert own.labels.tolist() == [label for _, label in pairs]
        places = official["test" if split == "test" else "train"]
        assert [places[number] for number in own.ids] == [path for path, _ in pairs]
        np.testing.assert_array_equal(own.images, [by_hand(path, 10) for path, _ in pairs])
        assert (own.images.dtype, own.labels.dtype, own.ids.dtype) == (np.uint8, np.int64, np.int64)
    with h5py.File(root / "folder-pets-10.h5") as file:
        assert [name.decode() for name in file["classes"]] == list(COUNTS)
        assert file.attrs["source"] == str(pets)
    choice = dataset_choice("folder:pets@10")
    levels = np.asarray(data.train.images) / 255
    np.testing.assert_allclose(choice.mean, levels.mean((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(choice.std, levels.std((0, 2, 3)), rtol=1e-9)
    assert (choice, choice.classes, choice.shape, choice.counts) == ("folder:pets@10", 3, (3, 10, 10), ())
    assert [datasets.split_count("folder:pets@10", split) for split in datasets.SPLITS] == [30, 6, 12]


def test_images_are_mapped_and_what_is_written_to_them_stays_in_memory(pets, root):
    checksum = datasets.prepare("folder:pets@10", str(pets)).checksum
    path = root / "folder-pets-10.h5"
    before = path.read_bytes()
    data = datasets.load("folder:pets@10")
    assert data.checksum == checksum == datasets.content_checksum({split: data.split(split) for split in datasets.SPLITS})
    for split in datasets.SPLITS:
        assert isinstance(data.split(split).images, np.memmap)
    data.train.images[:] = 0
    assert path.read_bytes() == before
    assert datasets.load("folder:pets@10").train.images.any()


def test_the_same_images_have_the_same_checksum_however_they_are_read(pets, root, monkeypatch, tmp_path):
    first = datasets.prepare("folder:pets@10", str(pets))
    mean = dataset_choice("folder:pets@10").mean
    monkeypatch.setattr(folders, "BLOCK", 7)
    moved = pets.rename(tmp_path / "elsewhere")
    second = datasets.prepare("folder:pets@10", str(moved))
    assert second.checksum == first.checksum
    np.testing.assert_allclose(dataset_choice("folder:pets@10").mean, mean, rtol=1e-12)
    # Another picture, another checksum.
    write_image(moved / "train" / "cats" / "000", 77, ("png", "RGB"))
    assert datasets.prepare("folder:pets@10", str(moved)).checksum != first.checksum


def test_another_resolution_needs_no_source(pets, root, tmp_path):
    datasets.prepare("folder:pets@10", str(pets))
    assert json.loads((root / "folder-pets.json").read_text()) == {"source": str(pets), "classes": list(COUNTS)}
    choice = folder_choice("folder:pets@12")
    assert (choice.shape, choice.mean) == ((3, 12, 12), (0.5, 0.5, 0.5))
    data = datasets.load("folder:pets@12")
    assert data.test.images.shape == (12, 3, 12, 12)
    np.testing.assert_array_equal(data.test.images[0], by_hand(files_of(pets / "val", COUNTS)[0][0], 12))
    assert folder_choice("folder:pets@12").mean != choice.mean
    pets.rename(tmp_path / "gone")
    assert len(datasets.load("folder:pets@12").test) == 12
    with pytest.raises(InputError, match=r"pets, which it is made of, is gone; run: python -m data prepare folder:pets") as raised:
        datasets.load("folder:pets@14")
    assert "\n" not in str(raised.value)


def test_tiny_imagenets_layout(tmp_path, root):
    source, names = tmp_path / "tiny", ("n01443537", "n02124075")
    train = {
        name: [write_image(source / "train" / name / "images" / f"{name}_{n}", n, ("JPEG", "RGB")) for n in range(5)] for name in names
    }
    tested = [write_image(source / "val" / "images" / f"val_{n}", 50 + n, ("JPEG", "RGB")) for n in range(6)]
    words = [f"{path.name}\t{names[n % 2]}\t0\t32\t44\t62\n" for n, path in enumerate(tested)]
    (source / "val" / "val_annotations.txt").write_text("".join(words[::-1]))
    (source / "test" / "images").mkdir(parents=True)
    write_image(source / "test" / "images" / "test_0", 99, ("JPEG", "RGB"))
    found = scan(source)
    assert found.classes == names
    assert found.train == tuple((path, label) for label, name in enumerate(names) for path in train[name])
    assert found.test == tuple((path, label) for label in (0, 1) for path in tested[label::2])
    data = datasets.prepare("folder:tiny@8", str(source))
    assert [len(data.split(split)) for split in datasets.SPLITS] == [8, 2, 6]
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("part", ["train", "."])
def test_without_a_part_of_its_own_a_tenth_of_each_class_is_test(tmp_path, root, part):
    source = tmp_path / "plain"
    write_classes(source / part, {"b": 11, "a": 30})
    data = datasets.prepare("folder:plain@8", str(source))
    # Of 30 images of a the last 3 are test, of the 27 before them the last 3 valid; of 11 images of b 2 and 1.
    assert data.test.ids.tolist() == [27, 28, 29, 39, 40]
    assert data.valid.ids.tolist() == [24, 25, 26, 38]
    assert data.train.ids.tolist() == [*range(24), *range(30, 38)]
    for split in datasets.SPLITS:
        assert data.split(split).labels.tolist() == [int(number >= 30) for number in data.split(split).ids]
    images = [path for paths in files_of(source / part, "ab") for path in paths]
    np.testing.assert_array_equal(data.test.images, [by_hand(images[number], 8) for number in data.test.ids])


@pytest.mark.parametrize("part", ["val", "validation", "test"])
def test_the_test_part_has_one_of_three_names(tmp_path, part):
    write_classes(tmp_path / "train", {"a": 3, "b": 3})
    write_classes(tmp_path / part, {"a": 1, "b": 2})
    assert [path.parent.parent.name for path, _ in scan(tmp_path).test] == [part] * 3


def test_a_link_in_a_circle_is_gone_around_once(tmp_path):
    counts = {"a": 3, "b": 3}
    write_classes(tmp_path / "set", counts)
    (tmp_path / "set" / "a" / "again").symlink_to(tmp_path / "set", target_is_directory=True)
    # A linked folder with other images is followed.
    write_classes(tmp_path / "others", {"c": 2})
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "others" / "c", target_is_directory=True)
    found = scan(tmp_path / "set")
    assert found.classes == ("a", "b", "linked")
    assert len(found.train) == 8


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("LA", (90, 128), (90, 90, 90)),
        ("RGBA", (10, 20, 30, 128), (10, 20, 30)),
        ("P", 3, (40, 50, 60)),
        ("I;16", 77 * 257, (77, 77, 77)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, colour, expected):
    image = Image.new(mode, (9, 14), colour)
    if mode == "P":
        image.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2, 40, 50, 60])
    image.save(tmp_path / "image.png")
    levels = read_image(tmp_path / "image.png", 8)
    assert levels.shape == (3, 8, 8)
    assert (levels == np.array(expected)[:, None, None]).all()


def test_a_large_jpeg_is_close_to_what_its_whole_decoding_gives(tmp_path):
    draw = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    Image.fromarray(draw).resize((1000, 800), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=95)
    found, expected = read_image(tmp_path / "large.jpg", 16).astype(int), by_hand(tmp_path / "large.jpg", 16).astype(int)
    assert np.abs(found - expected).max() <= 8
    assert np.abs(found - expected).mean() < 2


def spoil(source, how):
    """A folder of two classes with one thing wrong."""
    write_classes(source / "train", {"a": 3, "b": 3})
    write_classes(source / "val", {"a": 1, "b": 1})
    path = source / "train" / "b" / "001.jpg"
    WRONG[how][0](source, path)


WRONG = {
    "no image": (lambda source, path: path.with_suffix(".png").write_text("text"), r"b/001\.png: cannot be read as an image"),
    "cut short": (
        lambda source, path: write_image(path, 3, ("png", "RGB")).write_bytes(path.with_suffix(".png").read_bytes()[:300]),
        r"b/001\.png: cannot be read as an image",
    ),
    "a class more": (lambda source, path: write_image(source / "val" / "c" / "x", 1), r"val: has the class c, which the training images have not"),
    "a class less": (lambda source, path: write_image(source / "train" / "c" / "x", 1), r"val: has no image of the class c"),
    "loose images": (lambda source, path: write_image(source / "train" / "x", 1), r"train: must hold a folder of images for each of two or more classes, but holds images themselves"),
    "one image": (lambda source, path: [write_image(source / part / "c" / "x", 1) for part in ("train", "val")], r"class c has too few images"),
    "words": (lambda source, path: (source / "val" / "val_annotations.txt").write_text("x.png a\n"), r"val_annotations\.txt: line 1 is not an image's name, a tab and its class"),
    "absent": (lambda source, path: (source / "val" / "val_annotations.txt").write_text("y.png\ta\nz.png\tb\n"), r"images/y\.png: cannot be read as an image"),
}  # fmt: skip


@pytest.mark.parametrize("how", WRONG)
def test_what_is_wrong_with_a_folder_is_one_line_and_leaves_nothing(tmp_path, root, how, capsys):
    spoil(tmp_path / "wrong", how)
    with pytest.raises(InputError, match=WRONG[how][1]) as raised:
        datasets.prepare("folder:wrong@8", str(tmp_path / "wrong"))
    assert "\n" not in str(raised.value)
    assert list(root.iterdir()) == []


def test_a_folder_without_classes_is_refused(tmp_path, root):
    with pytest.raises(InputError, match=r"nowhere: is no folder"):
        datasets.prepare("folder:no@8", str(tmp_path / "nowhere"))
    write_classes(tmp_path / "one", {"a": 3})
    with pytest.raises(InputError, match=r"but holds 1 class\(es\)"):
        datasets.prepare("folder:one@8", str(tmp_path / "one"))


@pytest.mark.parametrize(
    "name", ["folder:pets", "folder:pets@", "folder:@8", "folder:a/b@8", "folder:pets@7", "folder:pets@1025", "folder:pets@big"]
)
def test_other_names_are_refused_with_an_example(root, name):
    with pytest.raises(InputError, match=r"must be folder:NAME@PIXELS, .* such as folder:pets@64") as raised:
        dataset_choice(name)
    assert "\n" not in str(raised.value)


def test_names_are_taken_apart():
    assert parse_folder("folder:tiny-imagenet.v2@64") == ("tiny-imagenet.v2", 64)
    assert datasets.cache_path("folder:tiny-imagenet.v2@64").name == "folder-tiny-imagenet.v2-64.h5"


def test_a_name_that_nothing_is_noted_of_comes_with_the_command(root):
    for ask in (dataset_choice, datasets.load, datasets.require, datasets.prepare):
        with pytest.raises(
            InputError,
            match=r"folder:pets@9: no folder is known by this name; run: python -m data prepare folder:pets --source DIR --resolution 9",
        ):
            ask("folder:pets@9")
    root.mkdir()
    (root / "folder-pets.json").write_text('{"source": ')
    with pytest.raises(InputError, match="no folder is known by this name"):
        dataset_choice("folder:pets@9")


def cut(path):
    path.write_bytes(path.read_bytes()[:-500])


def unsign(path):
    with h5py.File(path, "r+") as file:
        file.attrs["checksum"] = ""


def lose(path):
    with h5py.File(path, "r+") as file:
        del file["labels"]


@pytest.mark.parametrize(
    "damage", [cut, unsign, lose, lambda path: path.write_bytes(b"nothing")], ids=["cut", "unsigned", "labels", "other"]
)
def test_a_damaged_file_is_said_to_be_and_made_again(pets, root, capsys, damage):
    checksum = datasets.prepare("folder:pets@40", str(pets)).checksum
    damage(root / "folder-pets-40.h5")
    capsys.readouterr()
    assert datasets.load("folder:pets@40").checksum == checksum
    (line,) = capsys.readouterr().err.splitlines()
    assert "folder-pets-40.h5 is damaged (" in line
    assert datasets.load("folder:pets@40").checksum == checksum
    assert capsys.readouterr().err == ""


def test_the_commands(pets, root, capsys, tmp_path):
    assert main(["prepare", "folder:pets", "--source", str(pets), "--resolution", "16"]) == 0
    assert f"folder:pets@16: {root}/folder-pets-16.h5 (30 train, 6 valid, 12 test, SHA-256 " in capsys.readouterr().out
    assert main(["check", "folder:pets@16"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2:5] == [["train", "18", "10", "2", "30", "-"], ["valid", "3", "2", "1", "6", "-"], ["test", "4", "4", "4", "12", "-"]]
    out = tmp_path / "sheet.png"
    assert main(["show", "folder:pets@16", "--n", "4", "--composition", "IN", "--out", str(out)]) == 0
    assert out.is_file()
    # One pixel of the test part.
    path = root / "folder-pets-16.h5"
    with h5py.File(path, "r+") as file:
        file["images"][-1, 0, 0, 0] ^= 1
    capsys.readouterr()
    assert main(["check", "folder:pets@16"]) == 2
    assert "is damaged (its content has another checksum); run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["MNIST", "--resolution", "8"], "--resolution 8: goes with folder:NAME, got MNIST"),
        (["folder:pets@16", "--resolution", "8"], "--resolution 8: goes with folder:NAME, got folder:pets@16"),
        (["folder:pets"], "folder:pets: must be folder:NAME@PIXELS"),
        (["folder:pets", "--resolution", "16"], "no folder is known by this name"),
    ],
)
def test_mistakes_of_a_command_are_one_line(root, capsys, words, problem):
    assert main(["prepare", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line


def test_facts_load_no_torch(pets, root):
    datasets.prepare("folder:pets@10", str(pets))
    code = "import sys; from data.facts import dataset_choice; print(dataset_choice('folder:pets@10').shape, 'torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "(3, 10, 10) False\n"


@pytest.fixture
def runs(tmp_path, monkeypatch, root):
    """Run directories in tmp_path, no W&B."""
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("WANDB_MODE", "disabled")


def test_an_entry_trains_on_a_folder_at_a_resolution(pets, runs, tmp_path):
    assert main(["prepare", "folder:pets", "--source", str(pets), "--resolution", "32"]) == 0
    entry = {
        "method": "Identity",
        "seed": 1,
        "epochs": 1,
        "batch_size": 16,
        "lr": 0.01,
        "model": "LeNet5",
        "evaluation": {"compositions": ["ID", "IN"]},
    }
    experiment = build(entry | {"dataset": "folder:pets", "resolution": 48})
    assert experiment.hash == build(entry | {"dataset": "folder:pets@48"}).hash != build(entry | {"dataset": "folder:pets@32"}).hash
    assert experiment.pixels == 48
    # What is stored at 32 pixels and grown is something else.
    assert build(entry | {"dataset": "folder:pets@32", "resolution": 48}).hash != experiment.hash
    run_experiment(experiment)
    table = load_results(tmp_path / "runs")
    assert set(table["dataset"]) == {"folder:pets@48"}
    tested = table[(table["metric"] == "accuracy") & (table["composition"] != "")]
    assert tested["composition"].tolist() == ["Identity", "Invert"]
    # Of 12 images.
    assert all(value * 12 == pytest.approx(round(value * 12)) for value in tested["value"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dataset": "folder:pets"}, r"dataset: folder:pets says no resolution; write folder:pets@64, or 'resolution: 64' beside it"),
        ({"dataset": "folder:pets", "resolution": 7}, r"resolution: must be a whole number of pixels from 8 on, got 7"),
        ({"dataset": "folder:pets", "resolution": "48"}, r"resolution: must be a whole number of pixels from 8 on, got '48'"),
        ({"dataset": "folder:birds@48"}, r"dataset: folder:birds@48: no folder is known by this name; run: python -m data prepare"),
        ({"dataset": "folder:pets@48", "model": "SmallNet"}, r"model: SmallNet takes no images of 48 px"),
    ],
    ids=str,
)
def test_mistakes_of_an_entry_are_one_line(pets, root, fields, words):
    datasets.prepare("folder:pets@10", str(pets))
    with pytest.raises(FieldError, match=words) as raised:
        build({"method": "Identity", "lr": 0.01} | fields)
    assert "\n" not in str(raised.value)
