"""The committed lists as grids: data sets x seeds x groups of entries, each group what one method needs."""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from configs.recipes import PUBLISHED, RECIPES, Recipe
from data.compositions import ELEMENTALS
from errors import InputError
from train.entry import SEEDS

Fields = dict[str, Any]
Group = Callable[[Recipe], list[Fields]]


def identity(recipe: Recipe) -> list[Fields]:
    return [{"method": "Identity"} | recipe["identity"]]


def crossentropy(recipe: Recipe) -> list[Fields]:
    return [{"method": "CrossEntropy"} | recipe["crossentropy"]]


def contrastive(recipe: Recipe) -> list[Fields]:
    return [{"method": "Contrastive"} | recipe["contrastive"]]


def modules(recipe: Recipe, module: str = "module") -> list[Fields]:
    """The backbone, a module for each corruption, and their system."""
    level, rest = recipe[module]["level"], {key: value for key, value in recipe[module].items() if key != "level"}
    own = {name: level[name] if isinstance(level, Mapping) else level for name in ELEMENTALS}
    parts = [{"method": "Module", "corruption": name, "level": own[name]} | rest | {"backbone": recipe["backbone"]} for name in ELEMENTALS]
    return [{"method": "Identity"} | recipe["backbone"], *parts, modular(recipe, module)]


def manual(recipe: Recipe) -> list[Fields]:
    """The same with the levels that the paper sets by hand."""
    return modules(recipe, "manual")


def modular(recipe: Recipe, module: str = "module") -> Fields:
    return {"method": "ModularSystem", "backbone": recipe["backbone"], "module": recipe[module]}


def img_space(recipe: Recipe) -> list[Fields]:
    """The two image-space systems."""
    parts = {"autoencoder": recipe["autoencoder"], "classifier": recipe["classifier"]}
    return [{"method": method} | parts for method in ("ImgSpaceIdentity", "ImgSpaceJoint")]


def imgspace(recipe: Recipe) -> list[Fields]:
    """An autoencoder for each corruption, the two classifiers, and their systems."""
    autoencoders = [{"method": "Autoencoder", "corruption": name} | recipe["autoencoder"] for name in ELEMENTALS]
    joint = {"method": "JointClassifier"} | recipe["classifier"] | {"autoencoder": recipe["autoencoder"]}
    return [*autoencoders, {"method": "Identity"} | recipe["classifier"], joint, *img_space(recipe)]


def routing(recipe: Recipe) -> list[Fields]:
    """The systems with parts as published, in reverse order, told the wrong order, with random parts, and with a router."""
    variants: list[Fields] = [{}, {"order": "reverse"}, {"routing": "wrong_order"}, {"routing": "random"}]
    variants.append({"routing": "router", "router": recipe["router"]})
    return [system | variant for variant in variants for system in (modular(recipe), *img_space(recipe))]


@dataclass(frozen=True)
class Study:
    """A list: what stands in every entry, the groups of entries for each data set and seed, and the header's words."""

    groups: Sequence[Group]
    time: str
    expect: str
    datasets: Sequence[str] = PUBLISHED
    seeds: Sequence[int] = SEEDS
    common: Fields = field(default_factory=dict)
    # Parts of the recipe that this study changes.
    recipe: Recipe = field(default_factory=dict)
    recipes: Mapping[str, Any] = field(default_factory=lambda: RECIPES)

    def parts(self) -> list[str]:
        """The parts of a recipe that stand in this list."""
        recipe = RECIPES[self.datasets[0]]

        def text(own: Recipe) -> str:
            return yaml.safe_dump([entry for group in self.groups for entry in group(own)])

        return [part for part in recipe if text(recipe | {part: recipe[part] | {"lr": -1.0}}) != text(recipe)]

    def entries(self, name: str, choices: Mapping[str, Sequence[Any]] | None = None) -> list[tuple[str, list[Fields]]]:
        """The entries in blocks, each with a title; `choices` maps keys to the values of a grid.

        The keys `dataset` and `seed` take the place of the study's own, `PART.KEY` sets a hyperparameter of a part wherever it
        stands (`module.lr`), any other key stands in every entry.
        """
        grid: dict[str, Sequence[Any]] = {"dataset": self.datasets, "seed": self.seeds} | dict(choices or {})
        blocks: list[tuple[str, list[Fields]]] = []
        seen: set[str] = set()
        for values in itertools.product(*grid.values()):
            chosen = dict(zip(grid, values))
            dataset, seed = chosen.pop("dataset"), chosen.pop("seed")
            recipe = copy.deepcopy(RECIPES[dataset]) | copy.deepcopy(self.recipe)
            common: Fields = {"dataset": dataset, "study": name, "seed": seed, **self.common}
            for key, value in chosen.items():
                part, _, own = key.partition(".")
                if own and part in recipe:
                    if part not in self.parts():
                        raise InputError(f"--{key}: {part} is no part of this list; its parts: {', '.join(self.parts())}")
                    recipe[part][own] = value
                else:
                    common = set_key(common, key, value)
            # Where a level is chosen there is nothing to search.
            if recipe["module"]["level"] != "auto" and "module.search_epochs" not in chosen:
                recipe["module"].pop("search_epochs", None)
            title = ", ".join([str(dataset), f"seed {seed}", *(f"{key} {value}" for key, value in chosen.items() if len(grid[key]) > 1)])
            found = {yaml.safe_dump(common | entry): common | entry for group in self.groups for entry in group(recipe)}
            blocks.append((title, [entry for text, entry in found.items() if text not in seen]))
            seen |= found.keys()
        return [(title, entries) for title, entries in blocks if entries]


def set_key(fields: Fields, key: str, value: Any) -> Fields:
    """The fields with a (dotted) key set."""
    first, _, rest = key.partition(".")
    return fields | {first: set_key(fields.get(first, {}), rest, value) if rest else value}


class Flat(yaml.SafeDumper):
    """Plain YAML without anchors: what two entries share stands in both."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write(path: str, time: str, expect: str, blocks: Sequence[tuple[str, Sequence[Fields]]]) -> str:
    """The text of a list: three header lines (the command, the time, what to expect), then an entry per line, in blocks."""
    lines = [f"# bash submit_array.sh {path}", f"# {time}", f"# {expect}"]
    index = 0
    for title, entries in blocks:
        lines += ["", f"# {index} to {index + len(entries) - 1}: {title}" if len(entries) > 1 else f"# {index}: {title}"]
        lines += [f"- {yaml.dump(entry, Dumper=Flat, default_flow_style=True, sort_keys=False, width=10_000).strip()}" for entry in entries]
        index += len(entries)
    return "\n".join(lines) + "\n"
