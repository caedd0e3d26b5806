"""Checkpoints and weights on disk: atomic, with a checksum, and read without pickle's code."""

import hashlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from errors import InputError
from train.entry import Experiment
from train.run import write_atomically

DIGEST = hashlib.sha256().digest_size


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint of tensors and plain values, followed by its SHA-256; the one before stays until the new one is safe."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, payload + hashlib.sha256(payload).digest())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint, None where there is none; InputError where its checksum does not hold."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    payload, digest = data[:-DIGEST], data[-DIGEST:]
    if hashlib.sha256(payload).digest() != digest:
        raise InputError(f"{path}: damaged (its checksum does not hold); delete it to start this run again from the beginning")
    return torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")


def save_weights(directory: Path, network: nn.Module, facts: dict[str, Any]) -> None:
    """Writes weights.safetensors with the facts needed to build the network again (width, level) as metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(directory / "weights.safetensors", save(tensors, metadata={"facts": json.dumps(facts)}))


def read_facts(experiment: Experiment) -> dict[str, Any]:
    """The facts beside the weights of a finished run; InputError with the path where they are missing or damaged."""
    path = experiment.directory / "weights.safetensors"
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            return json.loads(json.loads(file.read(length))["__metadata__"]["facts"])
    except (OSError, ValueError, KeyError, TypeError, struct.error, MemoryError, OverflowError):
        raise InputError(f"{path}: missing or damaged; delete {experiment.directory} and run it again") from None


def load_weights(network: nn.Module, experiment: Experiment) -> None:
    """Loads a finished run's weights into a network; InputError where they are missing, damaged or of another shape."""
    path = experiment.directory / "weights.safetensors"
    try:
        tensors: dict[str, Tensor] = load_file(path)
        network.load_state_dict(tensors)
    except Exception as error:  # safetensors raises its own type for each kind of damage
        raise InputError(
            f"{path}: missing or damaged ({str(error).splitlines()[0]}); delete {experiment.directory} and run it again"
        ) from None
