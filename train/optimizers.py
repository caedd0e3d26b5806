"""The optimizers and the schedules of the learning rate, by their names on the menus.

A further one is an entry here and a line in info_dicts.OPTIMIZERS or info_dicts.SCHEDULES.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from errors import InputError
from train.entry import Trained

Parameters = Iterable[nn.Parameter]
Maker = Callable[[Parameters, Trained], torch.optim.Optimizer]
# The rate after `done` of `total` steps of the schedule, epochs or iterations, which are so many epochs.
Schedule = Callable[[Trained, int, int, int], float]


def without_compiler(cls: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The same optimizer with methods that do not import the compiler only to keep it out: it takes as long as torch itself, at every start."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    own = {name: inspect.unwrap(getattr(cls, name)) for name in names}
    return type(cls.__name__, (cls,), own | {"step": torch.no_grad()(inspect.unwrap(cls.step))})


def with_momentum(cls: type[torch.optim.Optimizer]) -> Maker:
    """Optimizers that keep a velocity, whose decay is the experiment's momentum."""
    make = without_compiler(cls)
    return lambda parameters, e: make(parameters, lr=e.lr, momentum=e.momentum, weight_decay=e.weight_decay)


def with_moments(cls: type[torch.optim.Optimizer], **more: Any) -> Maker:
    """Optimizers that keep means of the gradient and of its square; the experiment's momentum is the first one's decay, the second has the usual 0.999."""
    make = without_compiler(cls)
    return lambda parameters, e: make(parameters, lr=e.lr, betas=(e.momentum, 0.999), weight_decay=e.weight_decay, **more)


OPTIMIZERS: dict[str, Maker] = {
    "SGD": with_momentum(torch.optim.SGD),
    # Fused: four times as fast on a core.
    "Adam": with_moments(torch.optim.Adam, fused=True),
    "AdamW": with_moments(torch.optim.AdamW, fused=True),
    "RAdam": with_moments(torch.optim.RAdam),
    "RMSprop": with_momentum(torch.optim.RMSprop),
}


def cosine(e: Trained, done: int, total: int, epochs: int) -> float:
    """Annealing from lr towards final_lr, of experiments that have one, or 0 (Loshchilov and Hutter, arXiv 1608.03983)."""
    final: float = getattr(e, "final_lr", 0.0)
    return final + (e.lr - final) * 0.5 * (1 + math.cos(math.pi * done / total))


def step(e: Trained, done: int, total: int, epochs: int) -> float:
    """lr * step_factor ** (finished epochs // step_epochs)."""
    assert e.step_epochs is not None
    return e.lr * e.step_factor ** (done * epochs // (total * e.step_epochs))


def constant(e: Trained, done: int, total: int, epochs: int) -> float:
    """lr."""
    return e.lr


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "step": step, "constant": constant}


def make_optimizer(parameters: Parameters, e: Trained) -> torch.optim.Optimizer:
    """A fresh optimizer of an experiment's parameters, with its learning rate, momentum and weight decay; InputError for one that has no entry here."""
    if e.optimizer not in OPTIMIZERS:
        raise InputError(f"{e.optimizer} is on the menu, but not in train/optimizers.py")
    return OPTIMIZERS[e.optimizer](parameters, e)


def learning_rate(e: Trained, done: int, total: int, epochs: int | None = None) -> float:
    """The learning rate of the step that comes after `done` of the `total` steps of a schedule, epochs or iterations, over so many epochs (by default the experiment's).

    InputError for a schedule that has no entry here.
    """
    if e.schedule not in SCHEDULES:
        raise InputError(f"{e.schedule} is on the menu, but not in train/optimizers.py")
    return SCHEDULES[e.schedule](e, done, total, e.epochs if epochs is None else epochs)
