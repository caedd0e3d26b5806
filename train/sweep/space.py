"""The search space: how the values of one parameter are distributed, by the definitions of W&B's sweeps. Loads without torch and optuna.

A parameter is a mapping such as `{values: [0.1, 1]}` or `{distribution: log_uniform_values, min: 1e-4, max: 1}`. Without a distribution, `value`
is a constant, `values` are categorical, and `min` with `max` is uniform: over whole numbers where both are.
"""

import difflib
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from train.fields import FieldError, Whole, read_number

# Where a distribution has no end, experiments are tried this many standard deviations from its mean.
DEVIATIONS = 3


def read_finite(value: object) -> object:
    if not math.isfinite(read_number(value)):  # type: ignore[arg-type]
        raise ValueError(f"must be finite, got {value!r}")
    return value


def read_plain(value: object) -> object:
    """A value that JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): read_plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [read_plain(own) for own in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return read_finite(value)
    raise ValueError(f"must be a number, a word, a list or a mapping of them, got {value!r}")


# A whole number stays one: a quantised distribution with a whole `q` has whole values.
Real = Annotated[int | float, BeforeValidator(read_finite)]
Plain = Annotated[Any, BeforeValidator(read_plain)]


class Parameter(BaseModel, ABC):
    """The distribution of a parameter's values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    distribution: str

    def points(self) -> list[Any] | None:
        """The values that a grid takes, in order; None where a grid cannot be made."""
        return None

    @abstractmethod
    def draw(self, generator: random.Random) -> Any:
        """A value at random."""

    @abstractmethod
    def extremes(self) -> list[Any]:
        """Values at which an experiment is tried before a search: all of a set, else the ends (without ends: far out)."""

    def optuna_arguments(self) -> tuple[str, dict[str, Any]]:
        """The class in optuna.distributions of (nearly) the same distribution, and its arguments; ValueError where there is none."""
        raise ValueError(f"{self.distribution} cannot be searched by method bayes, method random takes it")

    def optuna(self) -> Any:
        """The same as an optuna distribution; ValueError where there is none."""
        import optuna.distributions

        name, arguments = self.optuna_arguments()
        return getattr(optuna.distributions, name)(**arguments)


class Constant(Parameter):
    """One value."""

    distribution: Literal["constant"] = "constant"
    value: Plain

    def points(self) -> list[Any]:
        return [self.value]

    def draw(self, generator: random.Random) -> Any:
        return self.value

    def extremes(self) -> list[Any]:
        return [self.value]

    def optuna_arguments(self) -> tuple[str, dict[str, Any]]:
        return "CategoricalDistribution", {"choices": scalars([self.value])}


class Categorical(Parameter):
    """Values that are equally likely."""

    distribution: Literal["categorical"] = "categorical"
    values: Annotated[list[Plain], Field(min_length=1)]

    @model_validator(mode="after")
    def _different(self) -> "Categorical":
        for i, value in enumerate(self.values):
            if any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in self.values[:i]):
                raise ValueError(f"values: {value!r} appears twice")
        return self

    def points(self) -> list[Any] | None:
        return list(self.values)

    def draw(self, generator: random.Random) -> Any:
        return generator.choice(self.values)

    def extremes(self) -> list[Any]:
        return list(self.values)

    def optuna_arguments(self) -> tuple[str, dict[str, Any]]:
        return "CategoricalDistribution", {"choices": scalars(self.values)}


class CategoricalWithProbabilities(Categorical):
    """Values that are not equally likely."""

    distribution: Literal["categorical_w_probabilities"] = "categorical_w_probabilities"  # type: ignore[assignment]
    probabilities: list[Annotated[Real, Field(ge=0)]]

    @model_validator(mode="after")
    def _sum(self) -> "CategoricalWithProbabilities":
        if len(self.probabilities) != len(self.values):
            raise ValueError(f"probabilities: must be one for each of the {len(self.values)} values, got {len(self.probabilities)}")
        if not math.isclose(sum(self.probabilities), 1, rel_tol=1e-5):
            raise ValueError(f"probabilities: must sum to 1, got {sum(self.probabilities):g}")
        return self

    def points(self) -> None:
        return None

    def draw(self, generator: random.Random) -> Any:
        return generator.choices(self.values, self.probabilities)[0]

    def optuna_arguments(self) -> tuple[str, dict[str, Any]]:
        return Parameter.optuna_arguments(self)


class Interval(Parameter):
    """A distribution between two ends."""

    min: Real
    max: Real

    @model_validator(mode="after")
    def _rising(self) -> "Interval":
        if self.min >= self.max:
            raise ValueError(f"min: must be less than max, got {self.min} and {self.max}")
        return self

    def extremes(self) -> list[Any]:
        return [self.min, self.max]


class IntUniform(Interval):
    """Uniform over the whole numbers from min to max, both included."""

    distribution: Literal["int_uniform"] = "int_uniform"
    min: Whole
    max: Whole

    def points(self) -> list[int]:
        return list(range(self.min, self.max + 1))

    def draw(self, generator: random.Random) -> int:
        return generator.randint(self.min, self.max)

    def optuna_arguments(self) -> tuple[str, dict[str, Any]]:
        return "IntDistribution", {"low": self.min, "high": self.max}


class Uniform(Interval):
    """Uniform over the real numbers from min to max."""

    distribution: Literal["uniform"] = "uniform"

    def draw(self, generator: random.Random) -> Any:
        return generator.uniform(self.min, self.max)

    def optuna_arguments(self) -> tuple[str, dict[str, Any]]:
        return "FloatDistribution", {"low": float(self.min), "high": float(self.max)}


class LogUniform(Interval):
    """exp(X) for X uniform from min to max: the ends are exponents of base e."""

    distribution: Literal["log_uniform"] = "log_uniform"

    @model_validator(mode="after")
    def _exponents(self) -> "LogUniform":
        if max(abs(self.min), abs(self.max)) > 700:
            raise ValueError("max: min and max are exponents of base e, from -700 to 700; log_uniform_values takes the values themselves")
        return self

    def draw(self, generator: random.Random) -> Any:
        return math.exp(generator.uniform(self.min, self.max))

    def extremes(self) -> list[Any]:
        return [math.exp(self.min), math.exp(self.max)]

    def optuna_arguments(self) -> tuple[str, dict[str, Any]]:
        return "FloatDistribution", {"low": math.exp(self.min), "high": math.exp(self.max), "log": True}


class InvLogUniform(LogUniform):
    """1 / exp(X) for X uniform from min to max."""

    distribution: Literal["inv_log_uniform"] = "inv_log_uniform"  # type: ignore[assignment]

    def draw(self, generator: random.Random) -> Any:
        return math.exp(-generator.uniform(self.min, self.max))

    def extremes(self) -> list[Any]:
        return [math.exp(-self.max), math.exp(-self.min)]

    def optuna_arguments(self) -> tuple[str, dict[str, Any]]:
        return Parameter.optuna_arguments(self)


class LogUniformValues(Interval):
    """Values from min to max whose logarithm is uniform."""

    distribution: Literal["log_uniform_values"] = "log_uniform_values"
    min: Annotated[Real, Field(gt=0)]

    def draw(self, generator: random.Random) -> Any:
        value = math.exp(generator.uniform(math.log(self.min), math.log(self.max)))
        # The logarithm's rounding may lead out of the interval.
        return float(min(max(value, self.min), self.max))

    def optuna_arguments(self) -> tuple[str, dict[str, Any]]:
        return "FloatDistribution", {"low": float(self.min), "high": float(self.max), "log": True}


class InvLogUniformValues(LogUniformValues):
    """Values from min to max the logarithm of whose inverse is uniform."""

    distribution: Literal["inv_log_uniform_values"] = "inv_log_uniform_values"  # type: ignore[assignment]

    def optuna_arguments(self) -> tuple[str, dict[str, Any]]:
        return Parameter.optuna_arguments(self)


class Normal(Parameter):
    """Normal with mean mu and standard deviation sigma."""

    distribution: Literal["normal"] = "normal"
    mu: Real = 0
    sigma: Annotated[Real, Field(gt=0)] = 1

    def draw(self, generator: random.Random) -> Any:
        return generator.gauss(self.mu, self.sigma)

    def extremes(self) -> list[Any]:
        return [self.mu - DEVIATIONS * self.sigma, self.mu + DEVIATIONS * self.sigma]


class LogNormal(Normal):
    """exp(X) for a normal X with mean mu and standard deviation sigma."""

    distribution: Literal["log_normal"] = "log_normal"  # type: ignore[assignment]

    @model_validator(mode="after")
    def _exponents(self) -> "LogNormal":
        if abs(self.mu) + 20 * self.sigma > 700:
            raise ValueError("mu: mu and sigma are those of the logarithm: |mu| + 20 sigma must be at most 700")
        return self

    def draw(self, generator: random.Random) -> Any:
        return math.exp(generator.gauss(self.mu, self.sigma))

    def extremes(self) -> list[Any]:
        return [math.exp(end) for end in super().extremes()]


class Beta(Parameter):
    """Beta(a, b), between 0 and 1."""

    distribution: Literal["beta"] = "beta"
    a: Annotated[Real, Field(gt=0)] = 1
    b: Annotated[Real, Field(gt=0)] = 1

    def draw(self, generator: random.Random) -> Any:
        return generator.betavariate(self.a, self.b)

    def extremes(self) -> list[Any]:
        mean = self.a / (self.a + self.b)
        deviation = math.sqrt(mean * (1 - mean) / (self.a + self.b + 1))
        return [max(mean - DEVIATIONS * deviation, mean / 1_000), min(mean + DEVIATIONS * deviation, 1 - (1 - mean) / 1_000)]


class Quantised(Parameter):
    """Another distribution, which stands after it among the bases, rounded to multiples of q (half to even, from 0): whole numbers where q is one."""

    q: Annotated[Real, Field(gt=0)] = 1.0

    def rounded(self, value: float) -> int | float:
        return round(value / self.q) * self.q

    def draw(self, generator: random.Random) -> Any:
        return self.rounded(super().draw(generator))  # type: ignore[safe-super]

    def extremes(self) -> list[Any]:
        return list(dict.fromkeys(self.rounded(value) for value in super().extremes()))  # type: ignore[safe-super]


class QUniform(Quantised, Uniform):
    """Uniform, rounded. A grid takes min, min + q and so on, without max (numpy's arange)."""

    distribution: Literal["q_uniform"] = "q_uniform"  # type: ignore[assignment]

    def points(self) -> list[Any]:
        step = (self.min + self.q) - self.min
        return [self.min + i * step for i in range(math.ceil((self.max - self.min) / self.q))]

    def optuna_arguments(self) -> tuple[str, dict[str, Any]]:
        low, q = Decimal(str(self.min)), Decimal(str(self.q))
        if low % q:
            raise ValueError(f"min: method bayes counts q from min, so it must be a multiple of {self.q}, got {self.min}")
        high = max(low, q * round(self.max / self.q))
        if isinstance(self.q, int):
            return "IntDistribution", {"low": int(low), "high": int(high), "step": self.q}
        return "FloatDistribution", {"low": float(low), "high": float(high), "step": self.q}


class QLogUniform(Quantised, LogUniform):
    """log_uniform, rounded."""

    distribution: Literal["q_log_uniform"] = "q_log_uniform"  # type: ignore[assignment]

    def optuna_arguments(self) -> tuple[str, dict[str, Any]]:
        return Parameter.optuna_arguments(self)


class QLogUniformValues(Quantised, LogUniformValues):
    """log_uniform_values, rounded."""

    distribution: Literal["q_log_uniform_values"] = "q_log_uniform_values"  # type: ignore[assignment]

    def optuna_arguments(self) -> tuple[str, dict[str, Any]]:
        if self.q != 1 or not all(isinstance(value, int) for value in (self.q, self.min, self.max)):
            raise ValueError("q: method bayes searches q_log_uniform_values only where q is 1 and min and max are whole numbers")
        return "IntDistribution", {"low": self.min, "high": self.max, "log": True}


class QNormal(Quantised, Normal):
    """normal, rounded."""

    distribution: Literal["q_normal"] = "q_normal"  # type: ignore[assignment]


class QLogNormal(Quantised, LogNormal):
    """log_normal, rounded."""

    distribution: Literal["q_log_normal"] = "q_log_normal"  # type: ignore[assignment]


class QBeta(Quantised, Beta):
    """beta, rounded."""

    distribution: Literal["q_beta"] = "q_beta"  # type: ignore[assignment]


DISTRIBUTIONS: dict[str, type[Parameter]] = {
    cls.model_fields["distribution"].default: cls
    for cls in (Constant, Categorical, CategoricalWithProbabilities, IntUniform, Uniform, QUniform, LogUniform, LogUniformValues,
                QLogUniform, QLogUniformValues, InvLogUniform, InvLogUniformValues, Normal, QNormal, LogNormal, QLogNormal, Beta, QBeta)
}  # fmt: skip


def scalars(values: Iterable[Any]) -> tuple[Any, ...]:
    """Values that optuna takes as choices; ValueError for lists and mappings."""
    for value in values:
        if isinstance(value, list | dict):
            raise ValueError(f"values: method bayes takes no list or mapping as a value, got {value!r}")
    return tuple(values)


def distribution_of(raw: Mapping[str, Any]) -> str:
    """The distribution of a parameter, by W&B's rules where it names none."""
    if "distribution" in raw:
        name = raw["distribution"]
        if not isinstance(name, str) or name not in DISTRIBUTIONS:
            near = difflib.get_close_matches(str(name), DISTRIBUTIONS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise FieldError("distribution", f"{name!r} is unknown; {hint}allowed: {', '.join(DISTRIBUTIONS)}")
        return name
    if "value" in raw:
        return "constant"
    if "values" in raw:
        return "categorical_w_probabilities" if "probabilities" in raw else "categorical"
    if "min" in raw and "max" in raw:
        whole = all(isinstance(raw[end], int) for end in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    raise FieldError("", f"has no values; needs value, values, min and max, or a distribution: {', '.join(DISTRIBUTIONS)}")


def read_parameter(raw: object) -> Parameter:
    """The distribution that a mapping of a sweep file describes; FieldError with the key, what is wrong and what is allowed."""
    if not isinstance(raw, Mapping):
        raise FieldError("", f"must be a mapping such as {{value: 0.1}} or {{values: [0.1, 1]}}, got {raw!r}")
    name = distribution_of(raw)
    cls = DISTRIBUTIONS[name]
    if name == "categorical" and "probabilities" in raw:
        raise FieldError("probabilities", "go with distribution: categorical_w_probabilities, or with values alone")
    for key in raw:
        if key not in cls.model_fields:
            near = difflib.get_close_matches(str(key), cls.model_fields, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise FieldError(str(key), f"unknown key for {name}; {hint}allowed: {', '.join(cls.model_fields)}")
    for key, field in cls.model_fields.items():
        if field.is_required() and key not in raw:
            raise FieldError(key, f"missing; {name} needs it")
    try:
        return cls.model_validate(dict(raw))
    except ValidationError as error:
        raise in_words(error) from None


def in_words(error: ValidationError) -> FieldError:
    """The first of pydantic's complaints, as one line in this project's words."""
    problem = error.errors()[0]
    key, message = str(problem["loc"][0]) if problem["loc"] else "", problem["msg"].removeprefix("Value error, ")
    if not key:
        key, _, message = message.partition(": ")
    elif problem["type"] != "value_error":
        message = f"{message[0].lower()}{message[1:]}, got {problem['input']!r}"
    return FieldError(key, message)
