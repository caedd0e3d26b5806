"""Optimizers and schedules: each step against its definition, the rates against those of torch, and that a stopped or killed run goes on with the same bits."""

import gc
import itertools
import subprocess
import sys
from contextlib import suppress
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import info_dicts
from benchmarks.faults import cases, kills
from errors import Interrupted
from tests.train.runs import COMMON, equal, metrics, train, weights
from train import interrupt, loop, optimizers
from train.build import build
from train.checkpoint import load_checkpoint
from train.entry import ROOT
from train.method import method_class
from train.optimizers import learning_rate, make_optimizer
from train.runner import run_experiment
from train.start import uncollected

pytestmark = pytest.mark.usefixtures("small_runs")

IDENTITY = COMMON | {"method": "Identity", "lr": 0.01}
TEACHER = COMMON | {"method": "Teacher", "mechanism": "B", "lr": 0.1, "batch_size": 32, "evaluate_every": 1000}
OPTIMIZERS = [str(name) for name in info_dicts.OPTIMIZERS.values()]


# Every optimizer of the menu is made, takes a step, and is saved and restored.
START = """
import sys, torch, info_dicts, train.runner
from train.build import build
from train.optimizers import make_optimizer

for name in info_dicts.OPTIMIZERS.values():
    e = build({"dataset": 0, "method": "Identity", "lr": 0.1, "optimizer": str(name)})
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = make_optimizer([weight], e)
    optimizer.zero_grad()
    (weight**2).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert not torch.equal(weight, torch.ones(3))
print(*{"torch._dynamo", "sympy", "scipy.stats", "sklearn", "pandas", "matplotlib", "wandb"} & set(sys.modules))
"""


def test_a_training_starts_without_what_it_does_not_use():
    """The compiler, which torch's optimizers import, and the libraries of analyses and figures take longer than torch itself."""
    ended = subprocess.run([sys.executable, "-c", START], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "\n"


def test_the_collector_rests_while_modules_are_imported_and_works_again_after_an_error():
    with suppress(ImportError), uncollected():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def sgd(p, gradients, lr, momentum, decay):
    velocity = 0.0
    for number, gradient in enumerate(gradients):
        gradient = gradient + decay * p
        velocity = gradient if number == 0 else momentum * velocity + gradient
        p = p - lr * velocity
    return p


def rmsprop(p, gradients, lr, momentum, decay):
    square = velocity = 0.0
    for gradient in gradients:
        gradient = gradient + decay * p
        square = 0.99 * square + 0.01 * gradient**2
        velocity = momentum * velocity + gradient / (np.sqrt(square) + 1e-8)
        p = p - lr * velocity
    return p


def adam(p, gradients, lr, beta1, decay, decoupled=False, rectified=False):
    """Kingma and Ba 2015; `decoupled` Loshchilov and Hutter 2019; `rectified` Liu et al. 2020."""
    mean = square = 0.0
    for t, gradient in enumerate(gradients, start=1):
        if decoupled:
            p = p * (1 - lr * decay)
        else:
            gradient = gradient + decay * p
        mean = beta1 * mean + (1 - beta1) * gradient
        square = 0.999 * square + 0.001 * gradient**2
        mean_hat = mean / (1 - beta1**t)
        limit = 2 / (1 - 0.999) - 1
        length = limit - 2 * t * 0.999**t / (1 - 0.999**t)
        if not rectified:
            p = p - lr * mean_hat / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        elif length <= 5:
            p = p - lr * mean_hat
        else:
            r = np.sqrt((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length))
            p = p - lr * mean_hat * r * np.sqrt(1 - 0.999**t) / (np.sqrt(square) + 1e-8)
    return p


def adamw(p, gradients, lr, beta1, decay):
    return adam(p, gradients, lr, beta1, decay, decoupled=True)


def radam(p, gradients, lr, beta1, decay):
    return adam(p, gradients, lr, beta1, decay, rectified=True)


DEFINITIONS = {"SGD": sgd, "Adam": adam, "AdamW": adamw, "RAdam": radam, "RMSprop": rmsprop}


def test_every_choice_on_the_menus_has_an_entry():
    assert set(OPTIMIZERS) == set(optimizers.OPTIMIZERS) == set(DEFINITIONS)
    assert set(info_dicts.SCHEDULES.values()) == set(optimizers.SCHEDULES)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_steps_follow_the_definition(name, momentum):
    draw = np.random.default_rng(0)
    start, gradients = draw.normal(size=5), draw.normal(size=(8, 5))
    weight = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = make_optimizer([weight], build(IDENTITY | {"optimizer": name, "momentum": momentum, "weight_decay": 0.1}))
    for gradient in gradients:
        weight.grad = torch.from_numpy(gradient)
        optimizer.step()
    np.testing.assert_allclose(weight.detach().numpy(), DEFINITIONS[name](start, gradients, 0.01, momentum, 0.1), rtol=1e-6)


@given(st.integers(1, 40), st.integers(1, 10), st.floats(0.01, 0.99), st.integers(1, 7))
def test_the_step_schedule_is_torchs_by_epoch_and_by_iteration(epochs, step_epochs, factor, steps):
    e = build(IDENTITY | {"epochs": epochs, "schedule": "step", "step_epochs": step_epochs, "step_factor": factor})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=e.lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_epochs, factor)
    for epoch in range(epochs):
        rates = [learning_rate(e, epoch, epochs)]
        rates += [learning_rate(e, epoch * steps + batch, epochs * steps) for batch in range(steps)]
        assert rates == pytest.approx([optimizer.param_groups[0]["lr"]] * len(rates), rel=1e-9)
        optimizer.step()
        schedule.step()


@given(st.integers(1, 500), st.floats(0, 0.1), st.sampled_from(["cosine", "constant"]))
def test_cosine_falls_from_lr_to_the_final_one_and_constant_stays(total, final, schedule):
    e = build(TEACHER | {"schedule": schedule} | ({"final_lr": final} if schedule == "cosine" else {}))
    rates = [learning_rate(e, done, total) for done in range(total + 1)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(final if schedule == "cosine" else 0.1)
    assert all(first >= second for first, second in itertools.pairwise(rates))
    assert rates[total // 2] + rates[total - total // 2] == pytest.approx(rates[0] + rates[-1])


@pytest.mark.parametrize("entry", [IDENTITY, TEACHER], ids=["epoch", "iteration"])
def test_the_loop_steps_the_rate_down(entry):
    """In a row stands the rate of the epoch, or of its last iteration."""
    stepped = train(entry | {"epochs": 4, "schedule": "step", "step_epochs": 2, "step_factor": 0.5})
    assert [row["lr"] / stepped.lr for row in metrics(stepped) if "valid_loss" in row] == pytest.approx([1, 1, 0.5, 0.5])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_and_goes_on_with_the_same_bits_where_it_was_killed_or_told_to_stop(monkeypatch, name):
    entry = IDENTITY | {
        "epochs": 4,
        "batch_size": 16,
        "optimizer": name,
        "lr": {"SGD": 0.05, "RMSprop": 2e-4, "RAdam": 1e-2}.get(name, 2e-3),
    }
    undisturbed = train(entry)
    rows, expected = metrics(undisturbed), weights(undisturbed)
    assert rows[-1]["train_loss"] < 0.9 * rows[0]["train_loss"]
    undisturbed.directory.rename(undisturbed.directory.with_name("undisturbed"))

    class Killed(BaseException):
        """Nothing is written after it."""

    identity = method_class("Identity")
    loss, calls = identity.loss, itertools.count()

    def deadly(self, network, batch):
        if next(calls) == 30:
            raise Killed
        return loss(self, network, batch)

    with monkeypatch.context() as patch:
        # A checkpoint after every step.
        patch.setattr(loop, "SAVE_SECONDS", 0.0)
        patch.setattr(identity, "loss", deadly)
        with pytest.raises(Killed):
            run_experiment(build(entry))
    assert load_checkpoint(build(entry).directory)["optimizer"]["state"]
    count = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "told", lambda: next(count) >= 8)
        with pytest.raises(Interrupted):
            run_experiment(build(entry))
    again = train(entry)
    assert equal(weights(again), expected)
    assert metrics(again) == rows


def test_with_adam_a_run_that_is_killed_twice_ends_as_if_nothing_had_happened(tmp_path, monkeypatch):
    one = "dataset: 0, seed: 5, epochs: 6, batch_size: 64, threads: 1, evaluation: {images: 100, compositions: elementals}"
    monkeypatch.setattr(cases, "LIST", f"- {{{one}, method: Identity, optimizer: Adam, lr: 0.002, metrics: [mcc]}}\n")
    bench = cases.Bench(tmp_path, 0)
    bench.run_undisturbed(0)
    assert len(kills.kill(bench, 0, 2, Random(0)).notes) == 2
