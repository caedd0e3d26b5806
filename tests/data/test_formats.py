import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from data.formats import parse_cifar_binary, parse_cifar_pickle, parse_idx, parse_pgm, read_jpeg
from tests.data.synthetic import cifar10_pickle, encoded, idx_bytes, random_cifar10


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6)), st.booleans())
def test_idx_round_trip(array, compressed):
    content = idx_bytes(array)
    np.testing.assert_array_equal(parse_idx(gzip.compress(content) if compressed else content), array)


@given(st.binary(max_size=40))
def test_bytes_that_are_no_idx_file_are_a_value_error(content):
    for damaged in (
        content,
        idx_bytes(np.zeros((3, 2), np.uint8))[:-1] + content[:0],
        b"\x1f\x8b" + content,
        b"\0\0\x08\x03" + content[:11],
    ):
        with pytest.raises(ValueError, match=r"\w"):
            parse_idx(damaged)


def test_the_hand_made_pickle_is_what_the_official_batches_are():
    ((images, labels), *_) = random_cifar10(per_batch=5).values()
    content = pickle.loads(cifar10_pickle(images, labels).replace(b"numpy.core.", b"numpy._core."), encoding="latin1")
    np.testing.assert_array_equal(content["data"], images.reshape(-1, 3072))
    assert content["labels"] == labels.tolist()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("keys", [("labels", "data"), ("data", "labels"), (b"data", b"labels")])
def test_pickles_of_every_binary_protocol(protocol, keys):
    generator = np.random.default_rng(protocol)
    images, labels = generator.integers(0, 256, (2100, 3072), dtype=np.uint8), generator.integers(0, 10, 2100)
    values = {"labels": labels.tolist(), "data": images}
    content = {key: values[key if isinstance(key, str) else key.decode()] for key in keys}
    found_images, found_labels = parse_cifar_pickle(pickle.dumps({**content, "filenames": ["labels", "a.png"]}, protocol))
    np.testing.assert_array_equal(found_images.reshape(-1, 3072), images)
    np.testing.assert_array_equal(found_labels, labels)


class Trap:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_pickle_is_executed(tmp_path):
    ((images, labels), *_) = random_cifar10(per_batch=3).values()
    content = pickle.dumps({"trap": Trap(tmp_path / "sprung"), "labels": labels.tolist(), "data": images.reshape(3, -1)}, 2)
    np.testing.assert_array_equal(parse_cifar_pickle(content)[0], images)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(content)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("parse", [parse_cifar_binary, parse_cifar_pickle])
@pytest.mark.parametrize("content", [b"", b"no batch", pickle.dumps({"labels": [1, 2], "data": b"short"}, 2)])
def test_bytes_that_are_no_cifar10_batch_are_a_value_error(parse, content):
    with pytest.raises(ValueError, match=r"\w"):
        parse(content)


IMAGES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))


@given(IMAGES)
def test_pgm_files_that_pillow_writes(image):
    content = encoded(image, "PPM")
    np.testing.assert_array_equal(parse_pgm(content, image.shape), image)
    commented = content.replace(b"P5\n", b"P5 # made by hand\n\t#\n", 1)
    np.testing.assert_array_equal(parse_pgm(commented, image.shape), image)


@given(IMAGES)
def test_pgm_files_whose_line_ends_were_converted_are_restored(image):
    image[image == ord("\r")] = ord("\n")
    np.testing.assert_array_equal(parse_pgm(encoded(image, "PPM").replace(b"\n", b"\r\n"), image.shape), image)


@pytest.mark.parametrize("place", [230, 500, 820])
def test_a_carriage_return_that_was_lost_before_a_line_feed_goes_back_where_the_image_is_smooth(place):
    row, column = np.mgrid[:20, :50]
    smooth = (100 + 3 * row + column + 20 * np.sin(row / 3)).astype(np.uint8)
    pixels = smooth.reshape(-1)
    pixels[[150, 333, 700, 901]] = ord("\n")
    pixels[place : place + 2] = [ord("\r"), ord("\n")]
    content = encoded(smooth, "PPM").replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    np.testing.assert_array_equal(parse_pgm(content, smooth.shape), smooth)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header"),
        (b"P2\n3 2\n255\n0 0 0 0 0 0", "header"),
        (b"P5\n3 2\n255", "header"),
        (b"P5\n2 3\n255\n123456", "3x2"),
        (b"P5\n3 2\n15\n123456", "maximum of 15"),
        (b"P5\n3 2\n255\n12345", "5 bytes"),
        (b"P5\n3 2\n255\n1234567", "7 bytes"),
        (b"P5\r\n3 2\r\n255\r\n1234", "4 bytes"),
        (b"P5\r\n3 2\r\n255\r\n12345", "5 bytes"),
    ],
)
def test_bytes_that_are_no_such_pgm_are_a_value_error(content, message):
    with pytest.raises(ValueError, match=message):
        parse_pgm(content, (2, 3))


@pytest.mark.parametrize("extra", [0, 1])
def test_jpeg_is_what_pillow_decodes_without_the_surplus(tmp_path, extra):
    image = np.random.default_rng(extra).integers(0, 256, (20 + extra, 20 + extra, 3), dtype=np.uint8)
    (tmp_path / "a.jpg").write_bytes(encoded(image, "JPEG"))
    with Image.open(tmp_path / "a.jpg") as jpeg:
        expected = np.asarray(jpeg)[:20, :20].transpose(2, 0, 1)
    found = read_jpeg(tmp_path / "a.jpg", 20)
    assert found.shape == (3, 20, 20)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(20, 21, 3), (19, 19, 3), (22, 22, 3), (21, 20, 3)])
def test_a_jpeg_of_another_size_is_a_value_error(tmp_path, shape):
    (tmp_path / "a.jpg").write_bytes(encoded(np.zeros(shape, np.uint8), "JPEG"))
    with pytest.raises(ValueError, match=f"it is {shape[1]}x{shape[0]}"):
        read_jpeg(tmp_path / "a.jpg", 20)


def test_what_is_no_jpeg_is_a_value_error(tmp_path):
    whole = encoded(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8), "JPEG")
    for content in (b"", b"no image", whole[: len(whole) // 2], encoded(np.zeros((20, 20, 3), np.uint8), "PNG")):
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(ValueError, match="no readable JPEG image"):
            read_jpeg(tmp_path / "a.jpg", 20)
    with pytest.raises(ValueError, match="No such file"):
        read_jpeg(tmp_path / "absent.jpg", 20)
