"""What the analyses of a network's layers can be told: the values of an entry's `analyses:`. Loads without torch."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

import info_dicts
from data.compositions import compositions
from errors import InputError


def _read_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, got {value!r}")
    return value


def _read_whole(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a whole number, got {value!r}")
    return value


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Positive = Annotated[int, BeforeValidator(_read_whole), Field(ge=1)]
Fraction = Annotated[float, BeforeValidator(_read_number), Field(gt=0, le=1)]
PositiveNumber = Annotated[float, BeforeValidator(_read_number), Field(gt=0, allow_inf_nan=False)]
Deltas = Annotated[tuple[Fraction, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
Split = Literal["train", "valid", "test"]


class Options(BaseModel):
    """What all of them have."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    # Options that change nothing of what is found.
    unkeyed: ClassVar[tuple[str, ...]] = ()

    @property
    def key(self) -> str:
        """The name of the folder that holds the results: `default`, or a hash of what differs from that."""
        changed = {name: value for name, value in self.model_dump(mode="json", exclude_defaults=True).items() if name not in self.unkeyed}
        if not changed:
            return "default"
        text = json.dumps(changed, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class OnImages(Options):
    """Analyses that look at images under compositions; of teachers and students, under the mechanisms of their counterfactual sets."""

    # As for an entry's evaluation: 167, 1957, elementals (with Identity), a file or a list.
    compositions: str | tuple[str, ...] = "elementals"
    # How many images, the first of every class; None are all.
    images: Positive | None = None

    @field_validator("compositions", mode="before")
    @classmethod
    def _readable(cls, value: object) -> object:
        value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(value, str | list | tuple) or not value:
            raise ValueError(f"must be 167, 1957, elementals, a file of compositions or a list of them, got {value!r}")
        try:
            compositions(value)
        except InputError as error:
            raise ValueError(str(error)) from None
        return value if isinstance(value, str) else tuple(value)


class Saturation(OnImages):
    """Saturation of layers (Richter et al., arXiv 2006.08679): the share of dimensions that the variance of a layer's outputs takes."""

    unkeyed: ClassVar[tuple[str, ...]] = ("along",)

    delta: Deltas = (0.99,)
    rule: Literal["delve", "standard"] = "delve"
    # What of a convolution is a sample: every position (its channels), the mean, maximum or median over positions, or the whole map.
    conv: Literal["channelwise", "mean", "max", "median", "flatten"] = "channelwise"
    # Larger maps are first cut to this side, by nearest neighbours.
    downsample: Positive | None = None
    split: Split = "test"
    # Also during training: every batch (1), every n-th batch; none.
    along: Positive | None = None


class Projection(OnImages):
    """Accuracy where every layer's outputs are projected on the eigenvectors that explain a share delta of their variance."""

    compositions: str | tuple[str, ...] = ("Identity",)
    delta: Deltas = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999, 1.0)
    rule: Literal["delve", "standard"] = "delve"
    # `random`: on as many random directions instead, the control.
    basis: Literal["eigenvectors", "random"] = "eigenvectors"
    split: Split = "test"
    # How many training images the eigenvectors are of.
    train_images: Positive | None = None


class Latents(OnImages):
    """Outputs of layers as files."""

    compositions: str | tuple[str, ...] = ("Identity",)
    splits: Annotated[tuple[Split, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = ("train", "test")
    # The side that maps are averaged to; None keeps them.
    pooling: Positive | None = 4
    at: Literal["layers", "levels", "both"] = "layers"
    dtype: Literal["float32", "float16"] = "float32"


def _read_pooling(value: object) -> object:
    if value in ("full", "pixel") or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"must be a whole number from 1, full or pixel, got {value!r}")


Pooling = Annotated[int | str, BeforeValidator(_read_pooling)]


class Probes(OnImages):
    """Multinomial logistic regression on the outputs of every layer, or on every level (Alain and Bengio, arXiv 1610.01644)."""

    unkeyed: ClassVar[tuple[str, ...]] = ("memory",)

    at: Literal["layers", "levels", "both"] = "layers"
    # The side that maps are averaged to; `full` keeps them, `pixel` fits a probe for each position.
    pooling: Annotated[tuple[Pooling, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = (4,)
    split: Literal["valid", "test"] = "test"
    # How many training images probes are fitted on; None are all.
    train_images: Positive | None = None
    # The inverse weight of the penalty, as scikit-learn has it.
    C: PositiveNumber = 1.0
    standardise: bool = False
    # Fitted on the composition's own features, too, and those of the network before training.
    own: bool = True
    untrained: bool = True
    # How far, as a share of it, the objective may be above its minimum; and the most iterations.
    tolerance: PositiveNumber = 0.01
    max_iterations: Positive = 2000
    # Of features that are held at once, in GB; what does not fit takes further passes.
    memory: PositiveNumber = 4.0


class ReceptiveField(Options):
    """How much of the image the units of each layer see: by the graph, and by the gradients of these many test images."""

    images: Positive = 32


class Cost(Options):
    """Floating-point operations and parameters of each layer."""


class Metrics(OnImages):
    """Further metrics of a system's answers."""

    compositions: str | tuple[str, ...] = "167"
    # Accuracy is what every evaluation gives.
    metrics: Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = ("top5_accuracy", "mcc")
    split: Literal["valid", "test"] = "test"

    @field_validator("metrics", mode="after")
    @classmethod
    def _known(cls, names: tuple[Any, ...]) -> tuple[str, ...]:
        allowed = [name for name in info_dicts.METRICS.values() if name != "accuracy"]
        for name in names:
            if name not in allowed:
                raise ValueError(f"{name!r} is not one of the further metrics; allowed: {', '.join(allowed)}")
        return names


Shuffle = Literal["layer", "layer_nonzero", "layer_nonzero_distribution", "layer_all_distribution"]
Clusters = Annotated[int, BeforeValidator(_read_whole), Field(ge=2)]
NotNegative = Annotated[int, BeforeValidator(_read_whole), Field(ge=0)]


class Clustering(Options):
    """How the graph of a network's weights is made and cut (Filan et al., arXiv 2003.04881)."""

    clusters: Clusters = 4
    # Of the positions of a kernel: the sum of absolute weights, or the root of the sum of squares.
    norm: Literal[1, 2] = 1
    # In networks with convolutions: linear layers, too.
    dense: bool = False
    # Every hidden unit's incoming weights scaled to one norm, its outgoing ones the other way.
    normalise: bool = False
    # Small components that do not go from the first layer to the last.
    stray: Literal["keep", "drop"] = "keep"
    restarts: Positive = 10
    # k-means counts units by their degrees, as the n-cut does.
    weighted: bool = False
    seed: NotNegative = 42


class Clusterability(Clustering):
    """The normalised cut of a network's clusters, beside those of the same weights shuffled."""

    unkeyed: ClassVar[tuple[str, ...]] = ("along",)

    shuffles: NotNegative = 320
    shuffle: Annotated[tuple[Shuffle, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = ("layer",)
    # Those after the training; those before its pruning, where there is one; those before any training.
    weights: Annotated[tuple[Literal["final", "unpruned", "untrained"], ...], BeforeValidator(_as_tuple), Field(min_length=1)] = ("final",)
    # Also along the training, without shuffles: after every epoch (1), every n-th epoch; none.
    along: Positive | None = None


class Lesions(OnImages, Clustering):
    """What the network no longer does without the units of a cluster in a layer, beside random groups of units of the same size."""

    unkeyed: ClassVar[tuple[str, ...]] = ("memory",)

    compositions: str | tuple[str, ...] = ("Identity",)
    split: Literal["valid", "test"] = "test"
    # Random labelings of the units for single lesions; for those of pairs, where 0 is no pairs.
    labelings: Positive = 100
    pair_labelings: NotNegative = 0
    weights: Literal["final", "unpruned"] = "final"
    # Of activations that are held at once, in GB.
    memory: PositiveNumber = 0.5


class Coactivation(OnImages, Clustering):
    """Clusters of hidden units by how their activations go together, beside those by their weights; and what classes units and clusters go with."""

    compositions: str | tuple[str, ...] = ("Identity",)
    split: Literal["valid", "test"] = "test"
    correlation: Literal["spearman", "pearson", "kendall"] = "spearman"
    shuffles: NotNegative = 50


OPTIONS: dict[str, type[Options]] = {
    "saturation": Saturation,
    "projection": Projection,
    "latents": Latents,
    "probes": Probes,
    "receptive_field": ReceptiveField,
    "cost": Cost,
    "metrics": Metrics,
    "clusterability": Clusterability,
    "lesions": Lesions,
    "coactivation": Coactivation,
}


def read_options(analysis: str, values: object) -> Options:
    """The options of an analysis from a mapping of an entry; ValueError, in one line that starts with the key, where they are wrong."""
    kind = OPTIONS[analysis]
    if not isinstance(values, Mapping):
        raise ValueError(f"must be a mapping of options ({', '.join(kind.model_fields) or 'it has none'}), got {values!r}")
    try:
        return kind.model_validate({str(key): value for key, value in values.items()})
    except ValidationError as error:
        problem = error.errors()[0]
        key = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            raise ValueError(f"{key}: unknown option of {analysis}; allowed: {', '.join(kind.model_fields) or 'none'}") from None
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] != "value_error":
            message = f"{message[0].lower()}{message[1:]}, got {problem['input']!r}"
        raise ValueError(f"{key}: {message}") from None


def read_analyses(value: object) -> dict[str, Options]:
    """The analyses of an entry, by name in menu order: a name, a list of names (or numbers), or a mapping from names to options."""
    known = {str(name): number for number, name in info_dicts.ANALYSES.items() if name in OPTIONS}
    names = {str(number): name for name, number in known.items()} | {name: name for name in known}
    if isinstance(value, str | int) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, Mapping | list | tuple):
        raise ValueError(f"must be a list of analyses, or map them to their options, got {value!r}")
    given = dict(value) if isinstance(value, Mapping) else dict.fromkeys(value, None)
    found: dict[str, Options] = {}
    for key, options in given.items():
        if str(key) not in names:
            allowed = ", ".join(f"{number} {name}" for name, number in known.items())
            raise ValueError(f"{key!r} is no analysis of a network's layers; allowed: {allowed}")
        name = names[str(key)]
        if isinstance(options, Options):
            found[name] = options
            continue
        try:
            found[name] = read_options(name, {} if options is None else options)
        except ValueError as error:
            separator = "." if re.match(r"\w+: ", str(error)) else ": "
            raise ValueError(f"{name}{separator}{error}") from None
    return {name: found[name] for name in known if name in found}
