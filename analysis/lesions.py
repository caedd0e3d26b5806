"""Lesions: what a network no longer does without the units of a cluster in a layer, or of two, beside random groups of the same sizes (Filan et al., arXiv 2003.04881)."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.clusterability import clustered, example_of, graph_of, to_text
from analysis.lesion_tests import DEPENDENCIES, IMPORTANT, KINDS, Group, Verdict, coherence, groups_of, relabelled, verdict
from analysis.lesioned import Chain, Masks, Whole
from analysis.null_tests import fisher, rank_chi_square
from analysis.options import Lesions
from analysis.seen import Seen
from analysis.table import Row
from data.keys import derive
from errors import InputError
from models.wiring import INPUT, trace

Labels = dict[str, NDArray[np.int64]]
# The accuracy of each class (classes,).
Accuracies = NDArray[np.float64]
# Units that are taken away, by layer.
Lesion = dict[str, NDArray[np.int64]]


class Laboratory:
    """A system and the images of a condition, on which any number of lesions is tried in one pass."""

    def __init__(self, seen: Seen, options: Lesions, network: Any, sizes: dict[str, int], condition: str):
        self.seen, self.options, self.sizes, self.condition = seen, options, sizes, condition
        names = seen.pictures.names(condition)
        self.restore: Callable[[Tensor, Any], Tensor] = getattr(seen.system, "restore", lambda images, names: images)
        self.subject: Any = Whole(seen.system, names) if seen.parts else Chain(network, list(sizes))
        self.names = names

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, as many as memory allows."""
        seen, options = self.seen, self.options
        labels = seen.pictures.labels(options.split, self.condition, options.images)
        held: list[Tensor] = []
        start = 0
        for batch in seen.pictures.batches(options.split, self.condition, options.images):
            held.append(batch)
            if self.bytes_of(batch) * (len(held) + 1) > 1e9 * options.memory:
                images = torch.cat(held)
                yield images, labels[start : start + len(images)]
                start, held = start + len(images), []
        if held:
            images = torch.cat(held)
            yield images, labels[start : start + len(images)]

    def bytes_of(self, batch: Tensor) -> int:
        """What is held of a batch beside its images."""
        if isinstance(self.subject, Whole):
            return batch.nbytes
        if not hasattr(self, "_bytes"):
            self.subject.load(self.restore(batch[:1], self.names))
            self._bytes = sum(own.nbytes for own in self.subject.before.values()) + batch[:1].nbytes
        return self._bytes * len(batch)

    @torch.no_grad()
    def accuracies(self, lesions: Sequence[Lesion]) -> tuple[Accuracies, Accuracies, NDArray[np.float64]]:
        """The accuracies of each class, intact (classes,) and of every lesion (lesions, classes), and how many images each class has."""
        device = self.seen.device
        hits = torch.zeros(len(lesions) + 1, self.seen.classes, dtype=torch.float64, device=device)
        images_k = torch.zeros(self.seen.classes, dtype=torch.float64, device=device)
        for images, labels in self.chunks():
            restored = images if isinstance(self.subject, Whole) else self.restore(images, self.names)
            images_k += torch.bincount(labels, minlength=self.seen.classes)
            hits[0] += self.count(self.subject.load(restored), labels)
            for number, lesion in enumerate(lesions, 1):
                hits[number] += self.count(self.subject.logits(self.masks(lesion)), labels)
                if number % 50 == 0:
                    self.seen.tick()
        found = (hits / images_k.clamp(min=1)).cpu().numpy()
        return found[0], found[1:], images_k.cpu().numpy()

    def count(self, logits: Tensor, labels: Tensor) -> Tensor:
        return torch.bincount(labels[logits.argmax(1) == labels], minlength=self.seen.classes)

    def masks(self, lesion: Lesion) -> Masks:
        found = {}
        for layer, units in lesion.items():
            mask = torch.ones(self.sizes[layer])
            mask[torch.from_numpy(units)] = 0
            found[layer] = mask.to(self.seen.device)
        return found


def run(seen: Seen, options: Lesions, folder: Path) -> list[Row]:
    """Rows of every cluster in a hidden layer (`<layer>/<cluster>`), and where pairs are asked for of each two; tables as CSV: single.csv, joint.csv,
    conditional.csv, dependencies.csv. The input and the classifier stay whole.
    """
    network = seen.network
    if options.weights == "unpruned":
        if seen.unpruned is None or seen.parts:
            raise InputError(f"{seen.name}: weights: it was not pruned, so there are none before a pruning; allowed: final")
        network = seen.unpruned()
    wiring = trace(network, example_of(seen))
    try:
        found = clustered(graph_of(network, wiring, options), options)
    except InputError as error:
        raise InputError(f"{seen.name}: {error}") from None
    labels = found.by_layer()
    layers = [layer for layer in found.graph.names if layer not in (INPUT, wiring.wires[-1].layer)]
    groups = groups_of(labels, layers)
    rows: list[Row] = []
    tables: dict[str, list[list[Any]]] = {"single": [], "joint": [], "conditional": [], "dependencies": []}
    for condition in seen.pictures.conditions:
        laboratory = Laboratory(seen, options, network, {layer: wiring.sizes[layer] for layer in layers}, condition)
        study = Study(laboratory, labels, groups, options)
        cells = seen.pictures.cells(options.split, condition)
        rows += study.single(cells, tables)
        if options.pair_labelings:
            rows += study.pairs(cells, tables)
    for name, table in tables.items():
        if table:
            (folder / f"{name}.csv").write_text(to_text(HEADERS[name], table))
    return rows


HEADERS = {
    # As published, with the condition before and what is told of classes behind.
    "single": [
        "condition", "layer", "label", "diff", "corrected_pvalue", "label_in_layer_proportion", "true", "taxonomy", "mean", "std", "z_score",
        "n_layer_label", "importance_p", "coherence", "coherence_p",
    ],
    "joint": ["condition", "first", "second", "diff", "corrected_pvalue", "true", "taxonomy", "mean", "std", "z_score", "interaction"],
    "conditional": ["condition", "of", "given", "diff", "corrected_pvalue", "true", "taxonomy", "mean", "std", "z_score"],
    "dependencies": ["condition", "earlier", "later", "type"],
}  # fmt: skip


class Study:
    """The lesions of one network under one condition. What is random is drawn from the options' seed, the same for every condition."""

    def __init__(self, laboratory: Laboratory, labels: Labels, groups: Sequence[Group], options: Lesions):
        self.laboratory, self.labels, self.groups, self.options = laboratory, labels, groups, options
        self.verdicts: dict[str, Verdict] = {}
        self.intact = 0.0

    def random_labels(self, key: str, number: int) -> list[Labels]:
        """So many random labelings of every layer."""
        draw = np.random.default_rng(derive("lesions", key, self.options.seed) % 2**63)
        return [{layer: relabelled(own, draw) for layer, own in self.labels.items()} for _ in range(number)]

    def single(self, cells: dict[str, str], tables: dict[str, list[list[Any]]]) -> list[Row]:
        """Every cluster of every layer by itself."""
        groups, trials = self.groups, self.options.labelings
        random = self.random_labels("single", trials)
        lesions: list[Lesion] = [{group.layer: group.units} for group in groups]
        lesions += [{group.layer: np.flatnonzero(own[group.layer] == group.label)} for group in groups for own in random]
        intact_k, found, images_k = self.laboratory.accuracies(lesions)
        weights_k = images_k / images_k.sum()
        self.intact = float(intact_k @ weights_k)
        true, null = found[: len(groups)], found[len(groups) :].reshape(len(groups), trials, -1)
        rows = [Row("lesion_intact", self.intact, **cells)]
        importance, coherences, effects = [], [], []
        for group, own_k, null_rk in zip(groups, true, null):
            says = verdict(float(own_k @ weights_k), null_rk @ weights_k, self.intact, group.proportion, len(group.units))
            of_classes = verdict(float(own_k.mean()), null_rk.mean(1), float(intact_k.mean()))
            spread, coherence_p = coherence(own_k, null_rk, intact_k)
            self.verdicts[group.name] = says
            importance.append(of_classes.p)
            coherences.append(coherence_p)
            effects.append(says.mean / says.accuracy if says.accuracy else np.nan)
            values = {
                "accuracy": says.accuracy, "diff": says.difference, "p": says.p, "z": says.z, "kind": says.kind, "random_mean": says.mean,
                "random_std": says.deviation, "units": len(group.units), "proportion": group.proportion, "importance_p": of_classes.p,
                "coherence": spread, "coherence_p": coherence_p,
            }  # fmt: skip
            rows += [Row(f"lesion_{metric}", float(value), group.name, **cells) for metric, value in values.items()]
            rows += [
                Row("lesion_random", float(value), f"{group.name}#{place}", **cells) for place, value in enumerate(null_rk @ weights_k)
            ]
            rows += [
                Row("lesion_class_diff", float(value), f"{group.name}@{place}", **cells) for place, value in enumerate(own_k - intact_k)
            ]
            tables["single"].append(
                [self.laboratory.condition, group.layer, group.label, says.difference, says.p, group.proportion, says.accuracy, KINDS[says.kind], says.mean,
                 says.deviation, says.z, len(group.units), of_classes.p, spread, coherence_p]
            )  # fmt: skip
        whole = {
            "lesion_groups": len(groups), "lesion_important": sum(own.kind == IMPORTANT for own in self.verdicts.values()),
            "lesion_importance_fisher": fisher(importance, trials), "lesion_importance_ranks": rank_chi_square(importance, trials),
            "lesion_coherence_fisher": fisher(coherences, trials), "lesion_coherence_ranks": rank_chi_square(coherences, trials),
            "lesion_effect": float(np.nanmean(effects)) if len(effects) else np.nan,
        }  # fmt: skip
        return rows + [Row(metric, float(value), **cells) for metric, value in whole.items() if not np.isnan(value)]

    def pairs(self, cells: dict[str, str], tables: dict[str, list[list[Any]]]) -> list[Row]:
        """Each two clusters together, and each without another one; and how those that matter by themselves depend on each other."""
        groups, trials = self.groups, self.options.pair_labelings
        random = self.random_labels("joint", trials)
        pairs = list(combinations_with_replacement(range(len(groups)), 2))
        lesions = [merged({groups[a].layer: groups[a].units}, {groups[b].layer: groups[b].units}) for a, b in pairs]
        for a, b in pairs:
            for chance in random:
                first, second = (np.flatnonzero(chance[group.layer] == group.label) for group in (groups[a], groups[b]))
                lesions.append(merged({groups[a].layer: first}, {groups[b].layer: second}))
        ordered = [(a, b) for a in range(len(groups)) for b in range(len(groups)) if a != b]
        draw = np.random.default_rng(derive("lesions", "conditional", self.options.seed) % 2**63)
        for a, b in ordered:
            x, y = groups[a], groups[b]
            for _ in range(trials):
                own = relabelled(self.labels[x.layer], draw, y.units if x.layer == y.layer else None)
                lesions.append(merged({x.layer: np.flatnonzero(own == x.label)}, {y.layer: y.units}))
        _, found, images_k = self.laboratory.accuracies(lesions)
        accuracy = found @ (images_k / images_k.sum())
        rows, true = [], dict(zip(pairs, accuracy[: len(pairs)].tolist()))
        null = accuracy[len(pairs) :]
        for place, (a, b) in enumerate(pairs):
            one, other = groups[a], groups[b]
            says = verdict(true[a, b], null[place * trials : (place + 1) * trials], self.intact)
            interaction = says.difference - (self.verdicts[one.name].difference + self.verdicts[other.name].difference)
            values = {"diff": says.difference, "p": says.p, "kind": says.kind, "interaction": interaction}
            rows += [Row(f"joint_{metric}", float(value), f"{one.name}&{other.name}", **cells) for metric, value in values.items()]
            tables["joint"].append([self.laboratory.condition, one.name, other.name, *columns(says), interaction])
        null = null[len(pairs) * trials :]
        matters: dict[tuple[int, int], bool] = {}
        for place, (a, b) in enumerate(ordered):
            x, y = groups[a], groups[b]
            says = verdict(true[min(a, b), max(a, b)], null[place * trials : (place + 1) * trials], self.verdicts[y.name].accuracy)
            matters[a, b] = says.kind == IMPORTANT
            values = {"diff": says.difference, "p": says.p, "kind": says.kind}
            rows += [Row(f"conditional_{metric}", float(value), f"{x.name}|{y.name}", **cells) for metric, value in values.items()]
            tables["conditional"].append([self.laboratory.condition, x.name, y.name, *columns(says)])
        return rows + self.dependencies(matters, cells, tables)

    def dependencies(self, matters: dict[tuple[int, int], bool], cells: dict[str, str], tables: dict[str, list[list[Any]]]) -> list[Row]:
        """The type of dependency of each two clusters in different layers that matter by themselves, the earlier one first."""
        rows, counts = [], dict.fromkeys(DEPENDENCIES.values(), 0)
        important = [place for place, group in enumerate(self.groups) if self.verdicts[group.name].kind == IMPORTANT]
        for a in important:
            for b in important:
                # Groups are in the order of their layers.
                if a < b and self.groups[a].layer != self.groups[b].layer:
                    kind = DEPENDENCIES[matters[a, b], matters[b, a]]
                    counts[kind] += 1
                    rows.append(Row("dependency", float(kind), f"{self.groups[a].name}>{self.groups[b].name}", **cells))
                    tables["dependencies"].append([self.laboratory.condition, self.groups[a].name, self.groups[b].name, kind])
        return rows + [Row(f"dependencies_{kind}", float(count), **cells) for kind, count in counts.items()]


def columns(says: Verdict) -> list[Any]:
    """A verdict as the published tables have it."""
    return [says.difference, says.p, says.accuracy, KINDS[says.kind], says.mean, says.deviation, says.z]


def merged(one: Lesion, other: Lesion) -> Lesion:
    """Two lesions together."""
    found = dict(one)
    for layer, units in other.items():
        found[layer] = np.union1d(found[layer], units) if layer in found else units
    return found
