"""A W&B server, and a client that finds it."""

import os

import pytest
from hypothesis import settings

from tests.wandb_server.server import WandbServer
from train import tracking

# The first example of a property pays for imports, and the machine may be busy: no example fails for its time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def server():
    with WandbServer() as running:
        yield running


@pytest.fixture
def online(tmp_path, monkeypatch, server):
    """Runs in tmp_path and a W&B client that finds the server."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    yield server
    # A client in this process that this server had is of no use to the next one.
    tracking.teardown()
