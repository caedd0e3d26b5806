"""The figures by name: of results, and of a search. A new figure is a line here and a file beside."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plots import box_plot, effects, heat_map, invariance, paired, summary, sweep, training_curves
from plots.results import Results

FIGURES: dict[str, Callable[[Results, Path], list[Path]]] = {
    "summary": summary.summarize,
    "box_plot": box_plot.draw,
    "training_curves": training_curves.draw_results,
    "heat_map": heat_map.draw,
    "effects": effects.draw,
    "paired": paired.draw,
    "invariance": invariance.draw,
}
# Figures of a search: of a sweep file (with the overrides that it was run with) or of a W&B sweep.
SEARCH_FIGURES: dict[str, Callable[[str, Mapping[str, Any], Path], list[Path]]] = {"sweep": sweep.draw}
