"""The committed lists of distillation under spurious cues: teachers, and students by their data's and their teacher's mechanism and by loss."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import info_dicts
from configs.studies import Fields, set_key

# How a data set's teachers and students are trained, by loss; `common` stands in all. As published (PMLR 243:60-75) as far as that goes: SGD without
# momentum, batches of 64, rates per iteration.
Recipe = dict[str, Fields]


def recipe(teacher: Fields, student: Fields, common: Fields, **losses: Fields) -> Recipe:
    """A student's fields are those of all students, and those of its loss."""
    return {"common": common, "teacher": teacher} | {
        str(loss): student | losses.get(str(loss), {}) for loss in info_dicts.LOSSES.values() if loss != "Labels"
    }  # fmt: skip


IMAGES = recipe({"lr": 0.1, "final_lr": 0.001}, {"lr": 0.1, "final_lr": 0.01}, {"epochs": 20, "model": "ResNet20_Wide"})
RECIPES: dict[str, Recipe] = {
    "FashionMNIST-mini": recipe({"lr": 0.02, "momentum": 0.9}, {"lr": 0.005, "momentum": 0.9}, {"epochs": 8}),
    "CIFAR10": IMAGES,
    "CIFAR100": IMAGES,
    "Dominoes": IMAGES,
    "3DShapes": recipe({"lr": 0.1, "final_lr": 0.01}, {"lr": 0.1, "final_lr": 0.01}, {"epochs": 5, "model": "ResNet18"}),
    "3DShapes-small": recipe({"lr": 0.05}, {"lr": 0.05}, {"epochs": 20, "model": "LeNet5"}),
    "Slabs": recipe({"lr": 0.3, "batch_size": 100}, {"lr": 0.3, "batch_size": 50, "temperature": 1.0}, {"epochs": 50}),
}

# Entries of a data set and its recipe.
Group = Callable[[str, Recipe], list[Fields]]


def teachers(mechanisms: Sequence[Any]) -> Group:
    return lambda dataset, own: [{"method": "Teacher", "mechanism": name(dataset, mechanism)} | own["teacher"] for mechanism in mechanisms]


def students(data: Sequence[Any], taught: Sequence[Any], losses: Sequence[str], teacher_first: bool = False, **more: Any) -> Group:
    """A student for each mechanism of its data, mechanism of its teacher, and loss, the last varying fastest; `teacher_first`: the teacher slowest."""

    def entries(dataset: str, own: Recipe) -> list[Fields]:
        pairs = itertools.product(taught, data) if teacher_first else itertools.product(data, taught)
        found = []
        for first, second in pairs:
            mine, theirs = (second, first) if teacher_first else (first, second)
            teacher = {"teacher": {"mechanism": name(dataset, theirs)} | own["teacher"]}
            found += [{"method": "Student", "mechanism": name(dataset, mine), "loss": loss} | own[loss] | more | teacher for loss in losses]
        return found

    return entries


def labelled(data: Sequence[Any]) -> Group:
    """Students of labels alone, with the rates of a teacher."""
    return lambda dataset, own: [
        {"method": "Student", "mechanism": name(dataset, mechanism), "loss": "Labels"} | own["teacher"] for mechanism in data
    ]


def slabs(fractions: Sequence[float]) -> Group:
    """For each fraction of rows whose simple feature is shuffled, three mechanisms of teachers by three of students."""

    def entries(dataset: str, own: Recipe) -> list[Fields]:
        found = []
        for fraction in fractions:
            # Both complex features tell half of the rows, or one of them tells all.
            kinds = [[round(1 - fraction, 4), *cues, 0, 0, 0] for cues in ([0.5, 0.5], [0, 1], [1, 0])]
            wide = {"model": "MLP-100-200-100"}
            for entry in students(kinds, kinds, ["Base"], teacher_first=True)(dataset, own):
                found.append(entry | {"model": "MLP-50", "teacher": entry["teacher"] | wide})
        return found

    return entries


def name(dataset: str, mechanism: Any) -> Any:
    """A mechanism's name by its number; six numbers stay."""
    return str(info_dicts.MECHANISMS[dataset][mechanism]) if isinstance(mechanism, int) else list(mechanism)


@dataclass(frozen=True)
class CueStudy:
    """A list of teachers and students: groups of entries for each data set and seed, and the header's words."""

    groups: Sequence[Group]
    time: str
    expect: str
    datasets: Sequence[str]
    seeds: Sequence[int] = (0,)
    common: Fields = field(default_factory=dict)
    recipes: Mapping[str, Any] = field(default_factory=lambda: RECIPES)

    def entries(self, name: str, choices: Mapping[str, Sequence[Any]] | None = None) -> list[tuple[str, list[Fields]]]:
        """The entries in blocks, each with a title; `choices` maps keys to the values of a grid.

        The keys `dataset` and `seed` take the place of the study's own; any other key, dotted for nested ones, stands in every entry.
        """
        grid: dict[str, Sequence[Any]] = {"dataset": self.datasets, "seed": self.seeds} | dict(choices or {})
        blocks = []
        for values in itertools.product(*grid.values()):
            chosen = dict(zip(grid, values))
            dataset, seed = str(chosen.pop("dataset")), chosen.pop("seed")
            own = RECIPES[dataset]
            common: Fields = {"dataset": dataset, "study": name, "seed": seed, **own["common"], **self.common}
            entries = [common | entry for group in self.groups for entry in group(dataset, own)]
            for key, value in chosen.items():
                entries = [set_key(entry, key, value) for entry in entries]
            title = ", ".join([dataset, f"seed {seed}", *(f"{key} {value}" for key, value in chosen.items() if len(grid[key]) > 1)])
            blocks.append((title, entries))
        return blocks


THREE = ("Base", "Jacobian", "Contrastive")
EXHAUSTIVE = range(7)
NOT_RUN = "the list has not been run at this length"

CUE_LISTS = {
    "distill_demo": CueStudy(
        [teachers([1, 0]), students([1, 0], [1, 0], ["Base"]), labelled([1, 0])],
        time="2.5 minutes on 2 cores, no GPU: 6 teachers, 12 students and 6 students of labels alone on FashionMNIST-mini with and without boxes, 3 seeds.",
        expect="Expect, as accuracy with the box less accuracy with a random box: of students on boxes 62 points from labels or a teacher on boxes, 7 from a teacher without; of students without boxes 3 from a teacher on boxes, -1 otherwise.",
        datasets=["FashionMNIST-mini"],
        seeds=(1, 2, 3),
    ),
    "dominoes_teachers": CueStudy(
        [teachers(EXHAUSTIVE)],
        time="20 epochs an entry, for a GPU each. On 2 cores an epoch takes 5 min, by measured steps per second.",
        expect=f"Expect nearly every test image right where box or FashionMNIST tell the class, fewer where CIFAR10 alone does; {NOT_RUN}.",
        datasets=["Dominoes"],
    ),
    "dominoes_students": CueStudy(
        [students(EXHAUSTIVE, EXHAUSTIVE, THREE)],
        time="20 epochs an entry, for a GPU each, after the 7 teachers. On 2 cores an epoch takes 5 min, with Jacobians 80 min, by measured steps per second.",
        expect=f"Expect students to use what their own data tell, and less of a cue that their teacher does not use; {NOT_RUN}.",
        datasets=["Dominoes"],
    ),
    "dominoes_targeted": CueStudy(
        [teachers([0, 7, 8]), students([7, 9, 10], [7, 8], THREE[:2], teacher_first=True, counterfactuals=[6, 11, 3, 12, 13])],
        time="20 epochs an entry, for a GPU each. On 2 cores an epoch takes 5 min, with Jacobians 80 min, by measured steps per second.",
        expect=f"Expect students to follow the cue that most of their images carry; {NOT_RUN}.",
        datasets=["Dominoes"],
    ),
    "cifar100_distill": CueStudy(
        [students([0, 1], [0, 1, 2], THREE)],
        time="20 epochs an entry, for a GPU each, after 3 teachers. On 2 cores an epoch takes 3 min, with Jacobians an hour, by measured steps per second.",
        expect=f"Expect students on images with boxes to use them, the less the less their teacher does; {NOT_RUN}.",
        datasets=["CIFAR100"],
    ),
    "shapes_students": CueStudy(
        [students(EXHAUSTIVE, EXHAUSTIVE, THREE)],
        time="5 epochs an entry, for a GPU each, after the 7 teachers. On 2 cores an epoch takes 6 to 50 min, with Jacobians 10 hours, by measured steps per second.",
        expect=f"Expect a nearly perfect accuracy wherever what a student uses is there; {NOT_RUN}.",
        datasets=["3DShapes"],
    ),
    "shapes_small": CueStudy(
        [teachers(EXHAUSTIVE), students(EXHAUSTIVE, EXHAUSTIVE, THREE[:1])],
        time="2 to 3 hours on 2 cores, no GPU: every pair of mechanisms on 7,680 images that are rendered here.",
        expect=f"Expect most of the cues that data and teacher share to be used, and less of the others; {NOT_RUN}.",
        datasets=["3DShapes-small"],
    ),
    "slabs": CueStudy(
        [slabs([0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])],
        time="6 minutes on 2 cores that had other work, too, no GPU: 21 teachers, and 63 students that come after them.",
        expect="Expect networks to go by the simple feature alone where it tells the class of all (99 % from it, 50 % from the others), and where it tells nothing by the 4 blocks (99 %), less by the 7 (71 %).",
        datasets=["Slabs"],
    ),
}
