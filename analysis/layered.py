"""The analyses of a network's layers by name: a new one is a line here, its options in analysis/options.py, a line in `info_dicts.ANALYSES` and a file beside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis import clusterability, coactivation, cost, latents, lesions, metrics, probes, projection, receptive_field, saturation
from analysis.seen import Seen
from analysis.table import Row

# (what is seen, options, a folder of its own that may hold what a killed analysis had finished) -> rows of the table
LAYERED: dict[str, Callable[[Seen, Any, Path], list[Row]]] = {
    "saturation": saturation.run,
    "projection": projection.run,
    "latents": latents.run,
    "probes": probes.run,
    "receptive_field": receptive_field.run,
    "cost": cost.run,
    "metrics": metrics.run,
    "clusterability": clusterability.run,
    "lesions": lesions.run,
    "coactivation": coactivation.run,
}
