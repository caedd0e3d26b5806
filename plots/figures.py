"""The figures by name: of results, and of a search. A new figure is a line here and a file beside."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from plots import (
    box_plot,
    cluster_graph,
    cue_reliance,
    cut_tables,
    cuts,
    effects,
    heat_map,
    invariance,
    layer_profiles,
    layer_table,
    layers,
    layers_over_epochs,
    lesions,
    mechanism_conditions,
    mechanism_curves,
    mechanism_heat_map,
    paired,
    probe_map,
    projection,
    report,
    summary,
    sweep,
    training_curves,
    tsne,
)
from plots.results import Results

Draw = Callable[[Results, Path], list[Path]]
# What a report shows.
DRAWN: dict[str, Draw] = {
    "box_plot": box_plot.draw,
    "training_curves": training_curves.draw_results,
    "heat_map": heat_map.draw,
    "effects": effects.draw,
    "paired": paired.draw,
    "invariance": invariance.draw,
    "cue_reliance": cue_reliance.draw,
    "mechanism_heat_map": mechanism_heat_map.draw,
    "mechanism_curves": mechanism_curves.draw,
    "mechanism_conditions": mechanism_conditions.draw,
    "tsne": tsne.draw,
    "layers": layers.draw,
    "layers_over_epochs": layers_over_epochs.draw,
    "probe_profiles": layer_profiles.draw_probes,
    "saturation_profiles": layer_profiles.draw_saturation,
    "projection": projection.draw,
    "probe_map": probe_map.draw,
    "cuts": cuts.draw,
    "cut_accuracy": cuts.draw_accuracy,
    "cut_curves": cuts.draw_curves,
    "cluster_graph": cluster_graph.draw,
    "lesions": lesions.draw,
    "joint_lesions": lesions.draw_joint,
    "dependencies": lesions.draw_dependencies,
}
# What prints and writes a table.
TABLES: dict[str, Draw] = {
    "layer_table": layer_table.draw,
    "clustering": cut_tables.clustering,
    "stability": cut_tables.stability,
    "lesion_table": cut_tables.lesion_table,
    "double_lesion_table": cut_tables.double_lesion_table,
}
FIGURES: dict[str, Draw] = {"summary": summary.summarize, **DRAWN, **TABLES, "report": partial(report.write, DRAWN)}
# Figures of a search: of a sweep file (with the overrides that it was run with) or of a W&B sweep.
SEARCH_FIGURES: dict[str, Callable[[str, Mapping[str, Any], Path], list[Path]]] = {"sweep": sweep.draw}
