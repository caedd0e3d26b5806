"""The committed sweep files, by name: grids over the hyperparameters that the paper searched, the same number of trials for every method; searches of students."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

import info_dicts
from configs.distillation import RECIPES as CUE_RECIPES
from configs.recipes import PUBLISHED, RECIPES
from configs.studies import Fields
from train.build import experiment_class
from train.sweep.file import COMMAND
from train.sweep.metrics import CLEAN, ELEMENTALS, MSE, metrics_of

# The seed of the published search, none of those that its winners are trained with.
SEED = 48121620

LRS = (0.001, 0.01, 0.1, 1.0)
FINE_LRS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
CLASSIFIER_LRS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
MODULE_WEIGHTS = (0.1, 1.0)
CONTRASTIVE_WEIGHTS = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Search:
    """A grid: the searched values of an entry's fields, what is fixed, the metric, and the header's words.

    `rests_on` names the search whose winner is the system's `part`. Small learning rates come first, since large ones may diverge.
    """

    dataset: str
    method: str
    metric: str
    # Values, or a distribution as W&B writes it.
    searched: Mapping[str, Sequence[float] | Fields]
    time: str
    expect: str
    fixed: Fields = field(default_factory=dict)
    part: str = ""
    rests_on: str = ""
    strategy: str = "grid"
    run_cap: int | None = None

    def parameters(self) -> dict[str, Fields]:
        """The parameters of the sweep file, by dotted name."""
        winner = {self.part: f"runs/sweeps/{self.rests_on}/best.yaml"} if self.rests_on else {}
        constants = {"dataset": self.dataset, "method": self.method, "seed": SEED, **self.fixed, **winner}
        return {key: {"value": value} for key, value in constants.items()} | {
            key: own if isinstance(own, dict) else {"values": [*own]} for key, own in self.searched.items()
        }  # fmt: skip


# Of an epoch on 2 cores: a network on clean images, on seven views, a module, an autoencoder.
MINUTES = {"EMNIST": (1.5, 11, 5, 2.5), "CIFAR10": (3.3, 23, 7, 3.5), "FaceScrub": (14, 98, 28, 20)}


def published(dataset: str) -> dict[str, Search]:
    """The searches of a data set of the paper, 200 epochs a network: 12 trials for each of the five methods, both steps counted."""
    name, recipe, (clean, views, module, autoencoder) = dataset.lower(), RECIPES[dataset], MINUTES[dataset]
    facts = next(choice for choice in info_dicts.DATASETS.values() if choice == dataset)
    levels = next(choice for choice in info_dicts.MODELS.values() if choice == facts.model).blocks
    backbone, autoencoders = f"{name}_step_one_backbone", f"{name}_step_one_autoencoders"

    def search(
        method: str, recipe_part: str, metric: str, searched: Mapping[str, Sequence[float]], each: str, epoch: str, **more: Any
    ) -> Search:
        """A search of a part of the recipe; `each` says what a trial trains, `epoch` how long one takes."""
        trials = math.prod(map(len, searched.values()))
        count = f"{trials} trials" + (" after the 4 of step one" if "rests_on" in more else "")
        keys = [key.rpartition(".")[2] for key in searched]
        own = ", ".join(f"{key} {recipe[recipe_part][key]:g}" for key in keys)
        return Search(
            dataset, method, metric, searched,
            time=f"{count}, each trains {each}; for GPUs. On 2 cores {epoch}, by measured rows per second.",
            expect=f"Expect no number yet, for this search has not been run; one of its points is the paper's choice ({own}).",
            **more,
        )  # fmt: skip

    def img_space(method: str, each: str, epoch: str) -> Search:
        return search(
            method, "classifier", ELEMENTALS, {"classifier.lr": CLASSIFIER_LRS}, each, epoch, part="autoencoder", rests_on=autoencoders
        )

    every = "a network on all single corruptions for 200 epochs"
    return {
        backbone: search(
            "Identity", "backbone", CLEAN, {"lr": LRS}, "a network on clean images for 200 epochs", f"an epoch takes {clean} min"
        ),
        autoencoders: search(
            "Autoencoder", "autoencoder", MSE, {"lr": LRS}, "the autoencoders of all six corruptions for 200 epochs",
            f"an epoch of one takes about {autoencoder} min",
        ),
        f"{name}_step_two_modular": search(
            "ModularSystem", "module", ELEMENTALS, {"module.lr": LRS, "module.weight": MODULE_WEIGHTS},
            f"six modules for 200 epochs, and {5 * levels} to find the level of each", f"an epoch of one takes about {module} min",
            fixed={"module.level": "auto"}, part="backbone", rests_on=backbone,
        ),
        f"{name}_step_two_imgspace_joint": img_space(
            "ImgSpaceJoint", "a classifier behind the autoencoders for 200 epochs", f"an epoch takes more than {views} min"
        ),
        f"{name}_step_two_imgspace_identity": img_space(
            "ImgSpaceIdentity", "a classifier of clean images for 200 epochs", f"an epoch takes {clean} min"
        ),
        f"{name}_crossentropy": search("CrossEntropy", "crossentropy", ELEMENTALS, {"lr": FINE_LRS}, every, f"an epoch takes {views} min"),
        f"{name}_contrastive": search(
            "Contrastive", "contrastive", ELEMENTALS, {"lr": LRS, "weight": CONTRASTIVE_WEIGHTS}, every, f"an epoch takes {views} min"
        ),
    }  # fmt: skip


PAPER_SEARCHES = {
    "demo_step_one": Search(
        "FashionMNIST-mini", "Identity", CLEAN, {"lr": (0.0003, 0.001, 0.003, 0.01, 0.1, 1.0)},
        time="6 trials of 10 epochs: 1 min on 2 cores that had other work, too; no GPU.",
        expect="Expect lr 0.1 to win with a clean accuracy of 81 % on validation images, before 0.01 with 74 %; lr 1 diverges, which is told.",
        fixed={"epochs": 10},
    ),
    "demo_step_two": Search(
        "FashionMNIST-mini", "ModularSystem", ELEMENTALS, {"module.lr": (0.0001, 0.001, 0.1), "module.weight": (0.1, 10.0)},
        time="6 trials of 2 epochs for each of six modules, after the 6 trials of step one (1 min): 2 min on 2 cores that had other work, too; no GPU.",
        expect="Expect lr 0.1, weight 0.1 to win with an accuracy of 74 % on single corruptions (validation images), before weight 10 with 68 %.",
        fixed={"epochs": 2, "module.level": 3}, part="backbone", rests_on="demo_step_one",
    ),
} | {name: search for dataset in PUBLISHED for name, search in published(dataset).items()}  # fmt: skip


def of_students(dataset: str, loss: str, searched: Mapping[str, Sequence[float] | Fields], time: str, expect: str, **more: Any) -> Search:
    """A search of students on images that carry all cues, taught by a teacher of images without, by their accuracy on validation images."""
    own, teacher = CUE_RECIPES[dataset][loss], CUE_RECIPES[dataset]["teacher"]
    mechanisms = {"FashionMNIST-mini": ("B", "P"), "Dominoes": ("CIFAR10_FashionMNIST_Box", "CIFAR10")}[dataset]
    fixed = CUE_RECIPES[dataset]["common"] | {"mechanism": mechanisms[0], "loss": loss} | own
    fixed |= {"teacher": {"mechanism": mechanisms[1]} | teacher}
    fixed = {key: value for key, value in (fixed | more.pop("fixed", {})).items() if key not in searched}
    return Search(dataset, "Student", "valid/accuracy", searched, time, expect, fixed=fixed, **more)


HALF_DAYS = "each trains a teacher, once, and a student of 20 epochs of 625 steps; for GPUs. On 2 cores an epoch takes 5 min."
STUDENT_SEARCHES = {
    "distill_cue_fraction": of_students(
        "FashionMNIST-mini", "Base", {"cue_fraction": (0.0, 0.25, 0.5, 0.75, 1.0)},
        time="5 trials, each a student of 8 epochs, after one teacher: 1 min on 2 cores, no GPU.",
        expect="Expect the accuracy on validation images with as many boxes to rise from 80 % without to 85 % with all of them.",
    ),
    "dominoes_contrastive": of_students(
        "Dominoes", "Contrastive",
        {
            "contrast_temperature": {"distribution": "uniform", "min": 0.01, "max": 1.0},
            "lr": {"distribution": "log_uniform_values", "min": 0.01, "max": 0.3},
            "alpha": {"distribution": "log_uniform_values", "min": 0.01, "max": 0.75},
        },
        time=f"30 trials, {HALF_DAYS}", expect="Expect no number yet, for this search has not been run.", strategy="bayes", run_cap=30,
    ),
    "dominoes_jacobian": of_students(
        "Dominoes", "Jacobian", {"alpha": (0.01, 0.03, 0.07, 0.1, 0.13, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)},
        time=f"14 trials, {HALF_DAYS}", expect="Expect no number yet, for this search has not been run.",
    ),
    "dominoes_architecture": of_students(
        "Dominoes", "Base", {"width": (1.0, 2.0, 3.0, 5.0, 10.0), "depth": (8, 14, 20, 32, 62)},
        time=f"25 trials, {HALF_DAYS}", expect="Expect no number yet, for this search has not been run.",
    ),
}  # fmt: skip
SEARCHES = PAPER_SEARCHES | STUDENT_SEARCHES


def sweep_text(name: str) -> str:
    """The text of a committed sweep file: three header lines (the command, the time, what to expect), then a W&B sweep."""
    search = SEARCHES[name]
    files = [f"configs/sweeps/{step}.yaml" for step in (search.rests_on, name) if step]
    goal = metrics_of(experiment_class(search.method))[search.metric].goal
    return "\n".join(
        [
            f"# bash submit_scripts/submit_sweep.sh {' '.join(files)}",
            f"# {search.time}",
            f"# {search.expect}",
            "",
            f"name: {name}",
            "project: palimpsest",
            f"method: {search.strategy}",
            *([f"run_cap: {search.run_cap}"] if search.run_cap else []),
            f"metric: {{name: {search.metric}, goal: {goal}}}",
            f"command: {COMMAND}",
            "parameters:",
            *(f"  {key}: {in_a_line(own)}" for key, own in search.parameters().items()),
            "",
        ]
    )


def in_a_line(value: Fields) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip()
