"""The one training loop: stages, epochs, schedule, validation, best weights, checkpoint and exact resume, progress, logging.

The experiment names its optimizer and the schedule of its learning rate (train/optimizers.py), which is stepped once per epoch, or per iteration for
experiments that say so. The weights
kept are those with the lowest validation loss, the later of equals, unless the experiment keeps the last; those before a pruning are kept beside. Killed at any moment and started again, a run on the
same number of CPU threads ends with the same bits: generator states, data order, sums of the epoch so far and best-so-far are part of the
checkpoint. Told to stop (SIGTERM), it finishes the step, writes a checkpoint and raises Interrupted.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from data.batches import Batch, Batches
from data.keys import derive
from errors import Diverged, InputError
from losses.metrics import Tally
from models.networks import count_parameters
from train import interrupt
from train.along import Along
from train.checkpoint import UNPRUNED, load_checkpoint, save_checkpoint, save_weights
from train.method import Method, Stage, Step
from train.optimizers import learning_rate, make_optimizer
from train.penalties import FirstInput, Penalties, make_clusterable
from train.pruning import Pruner
from train.run import Run

# After an epoch a checkpoint is written once training has taken this many times as long as writing the last one did: at most 2 % extra.
SAVE_RATIO = 50.0
# Inside an epoch it is written after this many seconds: what is lost where a node goes away without notice.
SAVE_SECONDS = 600.0


def choose_device(name: str) -> torch.device:
    """The device of an experiment's `device` field: `auto` is the GPU where there is one. InputError where it is not there."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device: {name} is not there (this torch is {torch.__version__}); allowed here: cpu, auto")
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if device.type == "cuda":
        # float32 means float32: convolutions would take 10-bit mantissas otherwise, also in the accuracies that are reported.
        torch.backends.cudnn.allow_tf32 = False
    return device


def validation_of(row: dict[str, Any]) -> dict[str, Any]:
    """What a row says of the validation images."""
    return {key: value for key, value in row.items() if key.startswith("valid_")}


def generator_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_generators(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def describe(row: dict[str, Any]) -> str:
    """Validation loss and, where there is one, accuracy in words."""
    accuracy = f", accuracy {row['valid_accuracy']:.4f}" if "valid_accuracy" in row else ""
    return f"validation loss {row['valid_loss']:.4f}{accuracy}"


class Sums:
    """Loss and hits summed on the device, read once at the end."""

    def __init__(self, device: torch.device):
        self.loss = torch.zeros((), device=device, dtype=torch.float64)
        self.hits = torch.zeros((), device=device, dtype=torch.int64)
        self.rows, self.classified = 0, 0

    def add(self, step: Step, labels_n: Tensor) -> None:
        rows = step.rows or len(labels_n)
        self.loss += step.loss.detach() * rows
        self.rows += rows
        correct = step.logits_nk.argmax(1) == labels_n if step.correct_n is None and step.logits_nk is not None else step.correct_n
        if correct is not None:
            self.hits += correct.sum()
            self.classified += rows

    def means(self, split: str) -> dict[str, float]:
        """Mean loss and, where something was classified, accuracy (a fraction), as `<split>_loss` and `<split>_accuracy`."""
        means = {f"{split}_loss": self.loss.item() / self.rows}
        return means | ({f"{split}_accuracy": self.hits.item() / self.classified} if self.classified else {})

    def state(self) -> dict[str, Any]:
        return {"loss": self.loss, "hits": self.hits, "rows": self.rows, "classified": self.classified}

    def restore(self, state: dict[str, Any]) -> None:
        self.loss.copy_(state["loss"])
        self.hits.copy_(state["hits"])
        self.rows, self.classified = state["rows"], state["classified"]


class Training:
    """One training from fresh weights, the stage `number`: what changes while it goes on, and so what a checkpoint holds of it."""

    penalties: Penalties
    example: FirstInput

    def __init__(self, number: int, stage: Stage, network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device):
        self.number, self.stage, self.device = number, stage, device
        self.network, self.optimizer = network, optimizer
        self.best: dict[str, Any] = {"valid_loss": math.inf}
        self.pruned_from = stage.epochs  # epochs before those in which weights are pruned
        self.pruner: Pruner | None = None
        self.epoch = 0  # epochs that are finished
        self.generators: dict[str, Tensor] | None = None
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self.batch = 0  # batches of this epoch that are trained on
        self.sums = Sums(self.device)
        self.seconds = 0.0  # of training in this epoch, in processes before this one
        # Set where validation has begun: what it draws does not count, since it begins anew.
        self.generators = None

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `restore` goes on with the same bits."""
        return {
            "stage": self.number,
            "epoch": self.epoch,
            "batch": self.batch,
            "sums": self.sums.state(),
            "epoch_seconds": self.seconds,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generators": self.generators or generator_states(self.device),
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        restore_generators(state["generators"], self.device)
        self.best, self.epoch, self.batch, self.seconds = state["best"], state["epoch"], state["batch"], state["epoch_seconds"]
        self.sums.restore(state["sums"])


class Loop:
    """Trains one experiment's method in an open run directory. `log` takes every epoch's row and its number (W&B)."""

    def __init__(self, run: Run, method: Method, log: Callable[[dict[str, Any], int], None], quiet: bool = False):
        self.run, self.method, self.log = run, method, log
        self.experiment, self.device = method.experiment, method.device
        self.quiet = quiet or not sys.stderr.isatty()
        self.along = Along(self.experiment)
        self.stages = method.stages()
        self.pruning = self.experiment.pruning if self.stages else None
        if self.pruning is not None:
            self.stages[-1] = replace(self.stages[-1], epochs=self.stages[-1].epochs + self.pruning.epochs)
        self.results: dict[str, dict[str, float]] = {}
        self.rows: list[dict[str, Any]] = []
        self.image_steps, self.seconds = 0, 0.0
        self.saved_at, self.save_seconds = time.perf_counter(), 0.0

    def train(self) -> dict[str, Any]:
        """Runs all stages from where the last checkpoint left them; writes the weights; returns the facts for done.json.

        Diverged where the loss is not finite; RunError where a file cannot be written; Interrupted after a checkpoint where the process was told to stop.
        """
        state = load_checkpoint(self.run.directory)
        if state is not None:
            self.results, self.rows = state["results"], state["rows"]
            self.image_steps, self.seconds = state["image_steps"], state["seconds"]
        self.run.restore_rows(self.rows)
        batches = self.method.batches()
        epochs = sum(stage.epochs for stage in self.stages)
        with tqdm(total=epochs, unit="epoch", desc=self.experiment.name, disable=self.quiet) as bar:
            for number, stage in enumerate(self.stages):
                if state is not None and number < state["stage"]:
                    bar.update(stage.epochs)
                    continue
                training = self.train_stage(number, stage, batches, state if state is not None and number == state["stage"] else None, bar)
                best = training.best
                kept = f"{stage.epochs} epochs, kept epoch {best['epoch']} with {describe(best)}"
                last = self.method.describe(self.rows[-1])
                bar.write(f"{stage.name}: {kept}; {f'last {last}; ' if last else ''}{self.seconds:.0f} s so far")
        network = training.network
        network.load_state_dict(best["network"])
        facts, product = self.method.facts(self.results), self.method.product(network)
        save_weights(self.run.directory, product, facts)
        return facts | {
            "parameters": count_parameters(product),
            "image_steps": self.image_steps,
            "search_trials": len(self.stages) - 1,
            "best_epoch": best["epoch"],
            **validation_of(best),
            "train_seconds": self.seconds,
        }

    def begin(self, number: int, stage: Stage) -> Training:
        """A training as it is before its first step: fresh weights, and what belongs to them."""
        e = self.experiment
        torch.manual_seed(derive("initialisation", e.seed, stage.name.partition("-")[0]))
        network = self.method.build(stage, self.results).to(self.device)
        if e.clusterable_start is not None:
            make_clusterable(network, e.clusterable_start, e.seed, self.method.classes)
        optimizer = make_optimizer(network.parameters(), e)
        training = Training(number, stage, network, optimizer, self.device)
        training.example = FirstInput(self.method.product(network))
        training.penalties = Penalties(e, network, self.method.product(network), training.example)
        if self.pruning is not None and number == len(self.stages) - 1:
            training.pruned_from = stage.epochs - self.pruning.epochs
        if e.compile:
            network.compile()
        return training

    def train_stage(self, number: int, stage: Stage, batches: Batches, resumed: dict[str, Any] | None, bar: Any) -> Training:
        """One training from fresh weights, or from a checkpoint inside it."""
        e, training = self.experiment, self.begin(number, stage)
        network = training.network
        if resumed is None:
            torch.manual_seed(derive("dropout", e.seed, stage.name))
        else:
            training.restore(resumed)
            self.along.restore(resumed.get("along", {}))
            bar.update(training.epoch)
        while training.epoch < stage.epochs:
            if training.epoch == training.batch == 0:
                self.watch(training, 0)
            if training.epoch >= training.pruned_from and training.pruner is None:
                self.begin_pruning(training, batches)
            row = self.epoch(training, batches)
            validation = validation_of(row)
            training.epoch += 1
            training.begin_epoch()
            if e.keep == "last" or training.pruner is not None or row["valid_loss"] <= training.best["valid_loss"]:
                weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
                training.best = validation | {"epoch": training.epoch, "network": weights}
            last = training.epoch == stage.epochs
            if last:
                self.results[stage.name] = validation
            self.note(row)
            bar.update()
            bar.set_postfix_str(", ".join(filter(None, [stage.name, describe(row), self.method.describe(row)])))
            if last or time.perf_counter() - self.saved_at > SAVE_RATIO * self.save_seconds:
                self.save(training)
        return training

    def epoch(self, training: Training, batches: Batches) -> dict[str, Any]:
        """One epoch of training, from where it stands, and its validation, as a row of metrics.jsonl."""
        network, optimizer = training.network, training.optimizer
        if self.experiment.anneal == "epoch":
            self.set_rate(training, batches)
        before, start = training.seconds, time.perf_counter()
        network.train()
        for batch in batches.epoch(training.epoch, training.batch):
            if self.experiment.anneal == "iteration":
                self.set_rate(training, batches)
            with self.along.training(self.method.product(network), training.batch):
                step = self.step(network, batch)
            penalty = training.penalties.of(training.batch)
            optimizer.zero_grad(set_to_none=True)
            (step.loss if penalty is None else step.loss + penalty).backward()
            optimizer.step()
            if training.pruner is not None:
                training.pruner.after((training.epoch - training.pruned_from) * batches.steps() + training.batch)
            training.sums.add(step, batch.labels_n)
            training.batch += 1
            training.seconds = before + time.perf_counter() - start
            looked = time.perf_counter()
            self.watch(training, training.epoch * batches.steps() + training.batch)
            start += time.perf_counter() - looked
            if interrupt.told() or time.perf_counter() - self.saved_at > SAVE_SECONDS:
                self.save(training)
                self.stop_if_told(training)
        means = training.sums.means("train")
        middle = time.perf_counter()
        training.seconds = before + middle - start
        training.generators = generator_states(self.device)
        network.eval()
        valid, tally = Sums(self.device), Tally(self.method.classes, self.device)
        with torch.no_grad(), self.along.validation(self.method.product(network)):
            for batch in batches.validation():
                self.pause_if_told(training)
                step = self.method.loss(network, batch)
                valid.add(step, batch.labels_n)
                if self.experiment.metrics and step.logits_nk is not None:
                    tally.add(step.logits_nk, batch.labels_n)
        means |= valid.means("valid")
        means |= {f"valid_{name}": value for name, value in tally.values(self.experiment.metrics).items()}
        found = self.method.examine(network, lambda: self.pause_if_told(training))
        if found:
            found["iteration"] = (training.epoch + 1) * batches.steps()
        # What a resumed optimizer has, too, where there is nothing left to train on.
        lr = optimizer.param_groups[0]["lr"]
        if not (math.isfinite(means["train_loss"]) and math.isfinite(means["valid_loss"])):
            raise Diverged(
                f"{self.experiment.name}: the loss is not finite in {training.stage.name}, epoch {training.epoch + 1}; "
                f"a lower lr (now {lr:g}) may help"
            )
        # Behind the last place where the epoch may be left: what is followed would be lost.
        layers = self.along.end_epoch(training.stage.name, training.epoch + 1)
        last = training.epoch + 1 == training.stage.epochs
        cut = self.along.cut_of(self.method.product(network), training.epoch + 1, last, training.example)
        self.image_steps += training.sums.rows
        self.seconds += training.seconds + time.perf_counter() - middle
        return {
            "stage": training.stage.name,
            "epoch": training.epoch + 1,
            "left": sum(stage.epochs for stage in self.stages[training.number :]) - training.epoch - 1,
            **means,
            **found,
            **layers,
            **cut,
            **({"sparsity": training.pruner.share()} if training.pruner else {}),
            "lr": lr,
            "images_per_second": training.sums.rows / training.seconds,
            "seconds": self.seconds,
        }

    def set_rate(self, training: Training, batches: Batches) -> None:
        """Tells the optimizer the learning rate of the epoch or iteration that comes."""
        e = self.experiment
        done, epochs = training.epoch, e.epochs
        if self.pruning is not None and training.pruner is not None:
            done, epochs = done - training.pruned_from, self.pruning.epochs
        steps = epochs
        if e.anneal == "iteration":
            done, steps = done * batches.steps() + training.batch, epochs * batches.steps()
        lr = learning_rate(e, done, steps, epochs)
        for group in training.optimizer.param_groups:
            group["lr"] = lr

    def begin_pruning(self, training: Training, batches: Batches) -> None:
        """Keeps the weights so far as unpruned.safetensors, and goes on from them with a fresh optimizer; or where a checkpoint left the pruning."""
        assert self.pruning is not None
        if training.epoch == training.pruned_from and training.batch == 0:
            training.network.load_state_dict(training.best["network"])
            facts, product = self.method.facts(self.results), self.method.product(training.network)
            save_weights(self.run.directory, product, facts, UNPRUNED)
            training.optimizer = make_optimizer(training.network.parameters(), self.experiment)
        training.pruner = Pruner(self.pruning, training.network, self.pruning.epochs * batches.steps())

    def watch(self, training: Training, iteration: int) -> None:
        """Notes what the method finds of the network after an iteration, if it looks."""
        # Only what comes before training can be taken up again; later looks are short.
        tick = (lambda: self.pause_if_told(training)) if iteration == 0 else (lambda: None)
        found = self.method.watch(training.network, iteration, tick)
        if found is not None:
            self.note({"stage": training.stage.name, "epoch": training.epoch + 1, "iteration": iteration, **found})

    def note(self, row: dict[str, Any]) -> None:
        """Appends a row to metrics.jsonl, and tells W&B."""
        self.run.log(row)
        self.log(row, len(self.rows))
        self.rows.append(row)

    def step(self, network: nn.Module, batch: Batch) -> Step:
        """The loss of a training batch, under autocast where the experiment's precision is bfloat16."""
        if self.experiment.precision == "float32":
            return self.method.loss(network, batch)
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.method.loss(network, batch)

    def save(self, training: Training) -> None:
        """Writes the checkpoint."""
        self.run.lock.check()
        start = time.perf_counter()
        state = training.state() | {
            "results": self.results,
            "rows": self.rows,
            "image_steps": self.image_steps,
            "seconds": self.seconds,
            "along": self.along.state(),
        }
        save_checkpoint(self.run.directory, state)
        self.saved_at = time.perf_counter()
        self.save_seconds = self.saved_at - start

    def pause_if_told(self, training: Training) -> None:
        """Writes a checkpoint and raises Interrupted where the process was told to stop; what is being looked at is looked at again."""
        if interrupt.told():
            self.save(training)
            self.stop_if_told(training)

    def stop_if_told(self, training: Training) -> None:
        interrupt.stop_if_told(
            f"{self.experiment.name} in {training.stage.name}, epoch {training.epoch + 1}, after step {training.batch}; "
            "a checkpoint is written and the same command goes on there"
        )
