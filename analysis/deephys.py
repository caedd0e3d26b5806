"""Exports for Deephys (deephys.org): what units do on single corruptions, before and after the module that undoes each of them.

For each module of a system, `<corruption>.model` and two test sets: `<corruption>.test`, the corrupted images through that module alone, and
`Identity-With-<corruption>-Module.test`, the clean images through the same. Layers: pre_module_layer and post_module_layer, channels (of maps
the maximum over places; of images, level 0, their grey levels in 0..1), penultimate_layer and output (logits). A system without modules has
`system.model` with penultimate_layer and output, and a test set for Identity and each corruption.

Images are the actual grey levels after the cut to uint8, in three channels, and classes have their names.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.cbor import TestSet, write_model
from analysis.walk import Data, System, respond
from data.batches import ToNetwork
from data.class_names import class_names
from data.compositions import IDENTITY, Composition
from errors import InputError, RunError
from models.networks import Activations

Layers = dict[str, NDArray[np.float32]]


@runtime_checkable
class WithModules(Protocol):
    """A system with a module for each corruption, at its level; `repair` applies those that are named."""

    modules_of: Mapping[str, nn.Module]
    levels: Mapping[str, int]

    def repair(self, images_nchw: Tensor, names: Sequence[str]) -> Activations: ...


@dataclass(frozen=True)
class View:
    """A test set: its name, the composition of its images, the model that it belongs to, and what gives the layers of network inputs."""

    name: str
    composition: Composition
    model: str
    respond: Callable[[Tensor], Layers]


@torch.inference_mode()
def export(
    systems: Sequence[System], data: Data, folders: Sequence[Path], device: torch.device, tick: Callable[[], object] = lambda: None
) -> None:
    """Writes a folder of Deephys files for each system; models are named after the run directory three levels up.

    A folder appears whole or not at all. InputError where units are negative, which Deephys does not take; RunError where nothing can be written.
    """
    for system, folder in zip(systems, folders):
        with create(folder) as made:
            export_one(system, data, made, short_name(folder.parents[2].name), device, tick)


def export_one(system: System, data: Data, folder: Path, name: str, device: torch.device, tick: Callable[[], object]) -> None:
    """The files of one system, from one walk through its images."""
    views = list(views_of(system, data, device))
    classes = class_names(data.dataset)
    models: dict[str, dict[str, int]] = {}
    with ExitStack() as stack:
        files = {
            view.name: stack.enter_context(TestSet(folder / f"{view.name}.test", view.name, classes, len(data.images))) for view in views
        }
        for start, stop in data.chunks():
            labels = data.images.labels[start:stop]
            for place, levels, images in data.walk(start, stop, device):
                for view in views:
                    if view.composition == data.compositions[place]:
                        layers = view.respond(images)
                        refuse_negative(layers, f"{name}, {view.name}")
                        models[view.model] = {layer: units.shape[1] for layer, units in layers.items()}
                        files[view.name].add(levels.to(torch.uint8).cpu().numpy(), labels, list(layers.values()))
                tick()
    for model, layers_of in models.items():
        write_model(folder / f"{model}.model", name if model == "system" else f"{name}-{model}", layers_of, "output")


def views_of(system: System, data: Data, device: torch.device) -> Iterator[View]:
    """The test sets of a system."""
    if not isinstance(system, WithModules):
        for composition in data.compositions:
            yield View(composition[0], composition, "system", partial(system_layers, system, composition))
        return
    to_levels = ToLevels(data.dataset, device)
    for corruption in system.modules_of:
        if (corruption,) in data.compositions:
            through = partial(module_layers, system, corruption, to_levels)
            yield View(corruption, (corruption,), corruption, through)
            if IDENTITY in data.compositions:
                yield View(f"Identity-With-{corruption}-Module", IDENTITY, corruption, through)


class ToLevels:
    """From network inputs (N, 3, H, W) back to grey levels in 0..1."""

    def __init__(self, dataset: str, device: torch.device):
        to_network = ToNetwork(dataset, device)
        self.scale, self.shift = 255 * to_network.scale, to_network.shift

    def __call__(self, images_nchw: Tensor) -> Tensor:
        return ((images_nchw - self.shift) / self.scale).clamp(0, 1)


def system_layers(system: System, composition: Composition, images_nchw: Tensor) -> Layers:
    """What every system has, for images that carry a composition."""
    return outputs(next(respond([system], images_nchw, composition)))


def module_layers(system: WithModules, corruption: str, to_levels: ToLevels, images_nchw: Tensor) -> Layers:
    """What enters and leaves a module, and what the backbone makes of that."""
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.extend((inputs[0], output))

    hook = system.modules_of[corruption].register_forward_hook(note)
    try:
        found = system.repair(images_nchw, (corruption,))
    finally:
        hook.remove()
    before, after = (to_levels(one) for one in seen) if system.levels[corruption] == 0 else seen
    return {"pre_module_layer": channels(before), "post_module_layer": channels(after)} | outputs(found)


def outputs(found: Activations) -> Layers:
    """The last two layers."""
    return {"penultimate_layer": found.penultimate_nu.float().cpu().numpy(), "output": found.logits_nk.float().cpu().numpy()}


def channels(features: Tensor) -> NDArray[np.float32]:
    """(N, channels): of maps the maximum over places."""
    return (features.flatten(2).amax(2) if features.ndim > 2 else features).float().cpu().numpy()


def refuse_negative(layers: Layers, where: str) -> None:
    """InputError where a layer other than the output has negative units."""
    for layer, units in layers.items():
        if layer != "output" and units.min() < 0:
            raise InputError(f"deephys: {where}: {layer} has negative activations; Deephys takes what comes after a ReLU")


def short_name(run: str) -> str:
    """A run directory's name as a model's: its method and the start of its hash."""
    words = run.split("-")
    return words[0] if len(words) == 1 else f"{words[0]}-{words[-1][:6]}"


@contextmanager
def create(folder: Path) -> Iterator[Path]:
    """A folder to fill, which appears whole or not at all; RunError where it cannot be written."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, folder)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
