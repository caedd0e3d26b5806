"""Runs in the test's folder."""

import pytest


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "elsewhere"))
    return tmp_path / "elsewhere"
