"""The committed sweep files, by name: grids over the hyperparameters that the paper searched, the same number of trials for every method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

import info_dicts
from configs.recipes import PUBLISHED
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

    `rests_on` names the search whose winner the part `part` is; small learning rates come first, since large ones may diverge.
    """

    dataset: str
    method: str
    metric: str
    searched: Mapping[str, Sequence[float]]
    time: str
    expect: str
    fixed: Fields = field(default_factory=dict)
    part: str = ""
    rests_on: str = ""

    def parameters(self) -> dict[str, Fields]:
        """The parameters of the sweep file, by dotted name."""
        winner = {self.part: f"runs/sweeps/{self.rests_on}/best.yaml"} if self.rests_on else {}
        constants = {"dataset": self.dataset, "method": self.method, "seed": SEED, **self.fixed, **winner}
        return {key: {"value": value} for key, value in constants.items()} | {key: {"values": [*own]} for key, own in self.searched.items()}


def published(dataset: str) -> dict[str, Search]:
    """The searches of a data set of the paper, 200 epochs a network: 12 trials for each of the five methods, both steps counted."""
    name, (clean, views, module, autoencoder) = dataset.lower(), MINUTES[dataset]
    facts = next(choice for choice in info_dicts.DATASETS.values() if choice == dataset)
    searched_epochs = 5 * next(choice for choice in info_dicts.MODELS.values() if choice == facts.model).blocks
    backbone, autoencoders = f"{name}_step_one_backbone", f"{name}_step_one_autoencoders"

    def time(trials: int, what: str, minutes: str) -> str:
        return f"{trials} trials, each {what}; for GPUs: on 2 cores {minutes}, by measured rows per second."

    def img_space(method: str, what: str, minutes: str, paper: float) -> Search:
        return Search(
            dataset, method, ELEMENTALS, {"classifier.lr": CLASSIFIER_LRS},
            time(8, f"{what}, 200 epochs (and step one's 4)", minutes), expect(f"lr {paper}"), part="autoencoder", rests_on=autoencoders,
        )  # fmt: skip

    one_step = 0.01 if dataset == "EMNIST" else 0.1
    contrastive, of_module = (0.01, 0.1) if dataset == "FaceScrub" else (0.1, 1)
    return {
        backbone: Search(
            dataset, "Identity", CLEAN, {"lr": LRS},
            time(4, "a network on clean images, 200 epochs", f"an epoch takes {clean} min"),
            expect("lr 0.1", f"{name}_step_two_modular.yaml starts from the winner"),
        ),
        autoencoders: Search(
            dataset, "Autoencoder", MSE, {"lr": LRS},
            time(4, "the autoencoders of all six corruptions, 200 epochs", f"an epoch of one takes about {autoencoder} min"),
            expect("lr 0.1", f"{name}_step_two_imgspace_*.yaml start from the winner"),
        ),
        f"{name}_step_two_modular": Search(
            dataset, "ModularSystem", ELEMENTALS, {"module.lr": LRS, "module.weight": MODULE_WEIGHTS},
            time(8, f"six modules, 200 epochs and {searched_epochs} to find the level (and step one's 4)", f"an epoch of one takes about {module} min"),
            expect(f"lr 0.01, weight {of_module}"), {"module.level": "auto"}, "backbone", backbone,
        ),
        f"{name}_step_two_imgspace_joint": img_space(
            "ImgSpaceJoint", "a classifier of what the autoencoders make of all views", f"an epoch takes over {views} min", one_step
        ),
        f"{name}_step_two_imgspace_identity": img_space(
            "ImgSpaceIdentity", "a classifier of clean images", f"an epoch takes {clean} min", one_step
        ),
        f"{name}_crossentropy": Search(
            dataset, "CrossEntropy", ELEMENTALS, {"lr": FINE_LRS},
            time(12, "a network on all single corruptions, 200 epochs", f"an epoch takes {views} min"), expect(f"lr {one_step}"),
        ),
        f"{name}_contrastive": Search(
            dataset, "Contrastive", ELEMENTALS, {"lr": LRS, "weight": CONTRASTIVE_WEIGHTS},
            time(12, "a network on all single corruptions, 200 epochs", f"an epoch takes {views} min"),
            expect(f"lr {one_step}, weight {contrastive}"),
        ),
    }  # fmt: skip


def expect(paper: str, more: str = "") -> str:
    return f"Expect no number yet: this search has not been run. One of its points is what the paper chose ({paper}){f'; {more}' if more else ''}."


# Of an epoch on 2 cores: a network on clean images, on seven views, a module, an autoencoder.
MINUTES = {"EMNIST": (1.5, 11, 5, 2.5), "CIFAR10": (3.3, 23, 7, 3.5), "FaceScrub": (14, 98, 28, 20)}

SEARCHES = {
    "demo_step_one": Search(
        "FashionMNIST-mini", "Identity", CLEAN, {"lr": (0.0003, 0.001, 0.003, 0.01, 0.1, 1.0)}, "", "", {"epochs": 10},
    ),
    "demo_step_two": Search(
        "FashionMNIST-mini", "ModularSystem", ELEMENTALS, {"module.lr": (0.001, 0.01, 0.1), "module.weight": (0.1, 10.0)}, "", "",
        {"epochs": 2, "module.level": 3}, "backbone", "demo_step_one",
    ),
} | {name: search for dataset in PUBLISHED for name, search in published(dataset).items()}  # fmt: skip


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
            "method: grid",
            f"metric: {{name: {search.metric}, goal: {goal}}}",
            f"command: {COMMAND}",
            "parameters:",
            *(f"  {key}: {in_a_line(own)}" for key, own in search.parameters().items()),
            "",
        ]
    )


def in_a_line(value: Fields) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip()
