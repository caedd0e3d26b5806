"""Checkpoints and weights on disk: atomic, checksummed, the one before kept, and read without pickle's code."""

import hashlib
import io
import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from errors import InputError
from registry import is_factory
from train.entry import Experiment
from train.run import write_atomically

DIGEST = hashlib.sha256().digest_size
# Raised when what a checkpoint holds changes: an older one is not read, the training begins again.
FORMAT = 2


def save_checkpoint(directory: Path, state: dict[str, Any]) -> None:
    """Writes checkpoint/last.pt in a run directory: tensors and plain values, followed by their SHA-256. The one before is kept as previous.pt."""
    buffer = io.BytesIO()
    torch.save(state | {"format": FORMAT}, buffer)
    payload = buffer.getvalue()
    last, previous = checkpoint_paths(directory)
    last.parent.mkdir(exist_ok=True)
    write_atomically(last, payload + hashlib.sha256(payload).digest(), keep=previous)


def load_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, None where there is none; says in one line on stderr which damaged ones it passed by.

    InputError where a file is there that cannot be read at all.
    """
    last, previous = checkpoint_paths(directory)
    damaged = []
    for path in (last, previous):
        try:
            state = read_checkpoint(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            damaged.append(f"{path} {error}")
            continue
        if damaged:
            print(f"checkpoint: {'; '.join(damaged)}; going on from {path.name}", file=sys.stderr, flush=True)
        return state
    if damaged:
        print(f"checkpoint: {'; '.join(damaged)}; there is no other, so the training begins again", file=sys.stderr, flush=True)
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint file; ValueError where its checksum does not hold or its form is an older one."""
    data = path.read_bytes()
    payload, digest = data[:-DIGEST], data[-DIGEST:]
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError("is damaged (its checksum does not hold)")
    state = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    if state.get("format") != FORMAT:
        raise ValueError(f"has an older form ({state.get('format', 1)}, now {FORMAT})")
    return state


def checkpoint_paths(directory: Path) -> tuple[Path, Path]:
    """Where a run's last checkpoint and the one before it lie."""
    return directory / "checkpoint" / "last.pt", directory / "checkpoint" / "previous.pt"


def remove_checkpoints(directory: Path) -> None:
    """Removes what a finished run no longer needs."""
    shutil.rmtree(directory / "checkpoint", ignore_errors=True)


WEIGHTS, UNPRUNED = "weights.safetensors", "unpruned.safetensors"


def save_weights(directory: Path, network: nn.Module, facts: dict[str, Any], name: str = WEIGHTS) -> None:
    """Writes weights.safetensors, or the weights before a pruning, with the facts needed to build the network again (width, level) as metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(directory / name, save(tensors, metadata={"facts": json.dumps(facts)}))


def read_facts(experiment: Experiment) -> dict[str, Any]:
    """The facts beside the weights of a finished run; InputError with the path where they are missing or damaged."""
    path = experiment.directory / "weights.safetensors"
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            return json.loads(json.loads(file.read(length))["__metadata__"]["facts"])
    except (OSError, ValueError, KeyError, TypeError, struct.error, MemoryError, OverflowError):
        raise InputError(f"{path}: missing or damaged; delete {experiment.directory} and run it again") from None


def load_weights(network: nn.Module, experiment: Experiment, name: str = WEIGHTS) -> None:
    """Loads a finished run's weights (by default the final ones) into a network; InputError where they are missing, damaged or of another shape."""
    path = experiment.directory / name
    try:
        tensors: dict[str, Tensor] = load_file(path)
        network.load_state_dict(tensors)
    except Exception as error:  # safetensors raises its own type for each kind of damage
        changed = f", or {experiment.model} is no longer what it was" if is_factory(experiment.model) else ""
        raise InputError(
            f"{path}: missing or damaged ({str(error).splitlines()[0]}){changed}; delete {experiment.directory} and run it again"
        ) from None
