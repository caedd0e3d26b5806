"""The trials of a search: what was tried, what came of it, and which parameters mattered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from errors import InputError
from plots.style import PAGE, plural, save, save_csv, styled
from train.sweep.best import Outcome, read_outcome, varied

FEWEST = 10  # trials: importance is not told from fewer
SHUFFLES = 200
DECADES = 1.5  # positive numbers that span more have a logarithmic axis
SHOWN = 12  # values of an axis that are written
BEST = "#D55E00"
HEIGHT = 2.6  # inches


@dataclass(frozen=True)
class Scale:
    """An axis of the parallel coordinates: where values lie on it (0 at the bottom, 1 at the top), and its ticks."""

    places: Mapping[Any, float]
    ticks: tuple[tuple[float, str], ...]


def draw(source: str, overrides: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws the trials of a search as parallel coordinates (a line for each, coloured by the metric), and the importance of its parameters.

    `source` is the file of a search that was run here, or a W&B sweep (ENTITY/PROJECT/ID). Importance is PED-ANOVA's (Watanabe et al. 2023,
    optuna's): how far the best trials (a tenth, at least two) differ from all in each parameter; the shares sum to 1. Of few trials the shares of noise are large, too: a mark shows what they stay below in 95 % of SHUFFLES shuffles
    of the metric. It is not drawn of fewer than FEWEST
    finished trials or of one parameter. Returns the paths of CSVs (trials, importance), PDF and PNG. InputError where there is no such search, RunError where none of its
    trials is done.
    """
    if overrides:
        raise InputError(f"sweep: {source}: a search takes no overrides; its file says what is tried")
    outcome = read_outcome(source)
    outcome.winner()
    keys = varied(outcome)
    table, shares = tabulate(outcome, keys), importance(outcome, keys)
    paths = []
    if shares:
        rows = pd.DataFrame(
            {
                "parameter": list(shares),
                "importance": [own.value for own in shares.values()],
                "chance": [own.chance for own in shares.values()],
                "trials": len(table.dropna(subset=["value"])),
            }
        )
        paths.append(save_csv(rows, folder, f"sweep-{outcome.name}-importance"))
    with styled():
        return paths + save(draw_trials(outcome, keys, shares), table, folder, f"sweep-{outcome.name}")


def tabulate(outcome: Outcome, keys: Sequence[str]) -> pd.DataFrame:
    """A row for each trial: its id, state, values, and the metric (NaN where it was not done)."""
    rows = [
        {
            "trial": result.id,
            "state": result.state,
            **{key: result.values.get(key) for key in keys},
            "metric": outcome.metric.name,
            "value": result.value,
        }
        for result in outcome.results
    ]
    return pd.DataFrame(rows).astype({"value": "float64"})


class Share(NamedTuple):
    """The importance of a parameter (shares sum to 1), and what it stays below in 95 % of searches in which no parameter matters."""

    value: float
    chance: float


def importance(outcome: Outcome, keys: Sequence[str]) -> dict[str, Share]:
    """The share of each parameter, the most important one first, beside that of trials whose metric was shuffled; empty where it cannot be told."""
    done = [result for result in outcome.results if result.value is not None and all(key in result.values for key in keys)]
    if len(done) < FEWEST or len(keys) < 2:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, Any] = {}
    for key in keys:
        values = [result.values[key] for result in done]
        if continuous(values):
            low, high = min(values), max(values)
            distributions[key] = optuna.distributions.FloatDistribution(low, high, log=logarithmic(values))
        else:
            distributions[key] = optuna.distributions.CategoricalDistribution(sorted({label(value) for value in values}))
    points = [
        {key: result.values[key] if continuous_axis(distributions[key]) else label(result.values[key]) for key in keys} for result in done
    ]
    sign = -1 if outcome.metric.goal == "maximize" else 1
    costs_n = np.array([sign * float(result.value or 0) for result in done])
    generator = np.random.default_rng(0)
    found = shares_of(points, distributions, costs_n)
    shuffled = [shares_of(points, distributions, generator.permutation(costs_n)) for _ in range(SHUFFLES)]
    return {key: Share(share, float(np.quantile([own.get(key, 0.0) for own in shuffled], 0.95))) for key, share in found.items()}


def shares_of(points: Sequence[Mapping[str, Any]], distributions: Mapping[str, Any], costs_n: NDArray[np.float64]) -> dict[str, float]:
    """PED-ANOVA's share of each parameter in trials at these points, of which a low cost is good."""
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    study = optuna.create_study(direction="minimize")
    trials = [
        optuna.trial.create_trial(params=dict(point), distributions=dict(distributions), value=float(cost))
        for point, cost in zip(points, costs_n)
    ]
    study.add_trials(trials)
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), normalize=True)
    return {key: float(share) for key, share in found.items() if math.isfinite(share)}


def continuous_axis(distribution: Any) -> bool:
    return hasattr(distribution, "low")


def numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def continuous(values: Sequence[Any]) -> bool:
    """Whether these are numbers of a range, not a few that were given: more than half of them differ."""
    return numbers(values) and len(set(values)) > max(2, len(values) / 2)


def logarithmic(values: Sequence[float]) -> bool:
    return min(values) > 0 and math.log10(max(values) / min(values)) > DECADES


def label(value: Any) -> str:
    """A value as it is written beside an axis."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else f"{text[:10]}...{text[-10:]}"


def scale_of(values: Sequence[Any]) -> Scale:
    """The axis of a parameter's values: logarithmic, linear, or one place for each value."""
    distinct: list[Any] = sorted(set(values)) if numbers(values) else sorted({label(value) for value in values})
    if numbers(values) and len(distinct) > 1:
        at = [math.log(value) if logarithmic(distinct) else float(value) for value in distinct]
        places = {value: (own - at[0]) / (at[-1] - at[0]) for value, own in zip(distinct, at)}
    else:
        places = {value: (number + 0.5) / len(distinct) for number, value in enumerate(distinct)}
    wanted = distinct if len(distinct) <= SHOWN else [distinct[round(place)] for place in np.linspace(0, len(distinct) - 1, 5)]
    ticks: list[tuple[float, str]] = []
    for value in wanted:
        if not ticks or places[value] - ticks[-1][0] > 0.04:
            ticks.append((places[value], label(value)))
    return Scale(places, tuple(ticks))


def draw_trials(outcome: Outcome, keys: Sequence[str], shares: Mapping[str, Share]) -> Figure:
    """The parallel coordinates, and the bars of importance where there are any."""
    figure = Figure(figsize=(PAGE, HEIGHT), layout="constrained")
    if shares:
        axes, bars = figure.subplots(1, 2, width_ratios=[3, 1])
        _draw_importance(bars, shares)
    else:
        axes = figure.subplots()
    _draw_lines(axes, outcome, keys)
    states = [result.state for result in outcome.results]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    of_all = f" of {outcome.expected}" if outcome.expected and outcome.expected != len(states) else ""
    title = f"{outcome.name}: n = {len(states)}{of_all} trials ({counted}); {outcome.metric.name}, to {outcome.metric.goal}"
    done = sum(result.value is not None for result in outcome.results)
    if not shares:
        title += "\nno importance: " + (
            "one parameter" if len(keys) < 2 else f"it takes {plural(FEWEST, 'finished trial')}, there are {done}"
        )
    figure.suptitle(title, fontsize=7)
    return figure


def _draw_lines(axes: Axes, outcome: Outcome, keys: Sequence[str]) -> None:
    """A line for each trial; those that were not done end before the metric, dotted; the best one stands out."""
    winner = outcome.winner()
    values = [result.value for result in outcome.results if result.value is not None]
    scales = [scale_of([result.values[key] for result in outcome.results if key in result.values]) for key in keys]
    norm = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1)
    for result in sorted(outcome.results, key=lambda own: (own is winner, own.value is not None)):
        known = [(place, key) for place, key in enumerate(keys) if key in result.values]
        x = [place for place, _ in known]
        y = [_place(scales[place], result.values[key]) for place, key in known]
        if result.value is None:
            axes.plot(x, y, color="0.6", linestyle=":", linewidth=0.8, marker="x", markersize=3, zorder=1)
            continue
        best = result is winner
        colour = BEST if best else to_hex(matplotlib.colormaps["viridis"](0.95 * float(norm(result.value))))
        axes.plot([*x, len(keys)], [*y, float(norm(result.value))], color=colour, linewidth=2.0 if best else 0.9, zorder=3 if best else 2)
    metric = Scale(
        {}, tuple((float(norm(value)), f"{value:.3g}") for value in np.linspace(min(values), max(values), 5 if len(set(values)) > 1 else 1))
    )
    for place, scale in enumerate([*scales, metric]):
        axes.axvline(place, color="0.3", linewidth=0.6, zorder=0)
        for height, text in scale.ticks:
            axes.annotate(text, (place, height), xytext=(2, 0), textcoords="offset points", va="center", fontsize=5.5, zorder=4,
                          bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5})  # fmt: skip
    axes.annotate(
        "best", (len(keys), float(norm(winner.value or 0))), xytext=(-3, 3), textcoords="offset points", ha="right", fontsize=6, color=BEST
    )
    axes.set_xticks(range(len(keys) + 1), [*keys, outcome.metric.name])
    axes.set(xlim=(-0.1, len(keys) + 0.25), ylim=(-0.06, 1.06), yticks=[])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _place(scale: Scale, value: Any) -> float:
    return scale.places[value] if value in scale.places else scale.places[label(value)]


def _draw_importance(axes: Axes, shares: Mapping[str, Share]) -> None:
    """The share of every parameter."""
    for place, (share, chance) in enumerate(shares.values()):
        axes.barh(place, share, color="#56B4E9" if share > chance else "#DDDDDD", height=0.6)
        axes.plot([chance, chance], [place - 0.4, place + 0.4], color="black", linewidth=1.0)
        axes.annotate(f"{share:.2f}", (max(share, chance), place), xytext=(2, 0), textcoords="offset points", va="center", fontsize=6)
    axes.set_yticks(range(len(shares)), list(shares))
    axes.set(xlim=(0, 1.15), ylim=(len(shares) - 0.4, -0.6), xlabel="importance (PED-ANOVA)")
    axes.legend(
        handles=[Line2D([], [], color="black", label="95 % of noise")],
        loc="upper center",
        bbox_to_anchor=(0.5, 1.12),
        fontsize=5.5,
        handlelength=0.8,
    )
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
