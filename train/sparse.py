"""What an entry says of the weights of its network beside their optimizer: pruning, penalties, a clusterable initialisation. Loads without torch."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_serializer, model_validator

from analysis.options import Fraction, Positive, PositiveNumber
from train.fields import read_number


class Part(BaseModel):
    """One of them; it is told by what differs from its defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_serializer(mode="wrap")
    def _changed(self, handler: Any) -> dict[str, Any]:
        return {
            name: value for name, value in handler(self).items() if name in self.always or value != type(self).model_fields[name].default
        }

    @property
    def always(self) -> tuple[str, ...]:
        return tuple(name for name, field in type(self).model_fields.items() if field.is_required())


Share = Annotated[float, BeforeValidator(read_number), Field(ge=0, lt=1)]


class Pruning(Part):
    """Epochs behind the others, in which the smallest weights of every kernel become 0 (Zhu and Gupta, arXiv 1710.01878): their share after step t of T is
    sparsity + (start - sparsity) (1 - t/T)^power, looked at every so many steps. The optimizer and its schedule begin anew.
    """

    epochs: Positive
    sparsity: Annotated[float, BeforeValidator(read_number), Field(gt=0, lt=1)] = 0.9
    start: Share = 0.5
    power: PositiveNumber = 3.0
    every: Positive = 10

    @model_validator(mode="after")
    def _grows(self) -> "Pruning":
        if self.start > self.sparsity:
            raise ValueError(f"start: must be at most the sparsity at the end, {self.sparsity:g}, got {self.start:g}")
        return self


class CutPenalty(Part):
    """The mean of the smallest eigenvalues of the graph of weights, times a weight, in the loss of every so many steps (and then so many times; Filan et al., arXiv 2103.03386)."""

    weight: PositiveNumber
    eigenvalues: Positive = 3
    every: Positive = 1


class ClusterableStart(Part):
    """Initial weights that favour modules, to which units are drawn: times 1 + (1 - d) (modules - 1) inside one, times d between two; the mean stays."""

    modules: Positive = 10
    d: Fraction = 0.6
