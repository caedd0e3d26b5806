"""The figures of the README, each as a ratio in one run.

python -m benchmarks                       all
python -m benchmarks corruptions           one of them
python -m benchmarks --json FILE           the figures of every round, too

What is lost by kills, full disks and the like is measured by itself: python -m benchmarks.faults
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import importlib
import json
import pkgutil
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import benchmarks
from benchmarks._figures import Figure
from errors import Arguments, InputError, report_errors
from train.run import write_atomically

LIBRARIES = ("torch", "numpy", "scikit-image", "kornia", "scikit-learn")


def main(argv: Sequence[str] | None = None) -> int:
    names = sorted(file.name for file in pkgutil.iter_modules(benchmarks.__path__) if not (file.name.startswith("_") or file.ispkg))
    arguments = Arguments("python -m benchmarks", description=__doc__)
    arguments.add_argument("name", nargs="*", help=f"which: {', '.join(names)} (default: all)")
    arguments.add_argument("--json", metavar="FILE", type=Path, help="writes the figures of all rounds, the machine and the versions")
    options = arguments.parse_args(argv)
    kept = f"{options.json} has the benchmarks that were finished" if options.json else "nothing is kept without --json"
    return report_errors(lambda: run(options.name or names, names, options.json), kept)


def run(chosen: Sequence[str], names: Sequence[str], path: Path | None) -> int:
    if unknown := [name for name in chosen if name not in names]:
        raise InputError(f"no benchmark {', '.join(unknown)}; allowed: {', '.join(names)}")
    if path is not None and not path.absolute().parent.is_dir():
        raise InputError(f"--json {path}: {path.absolute().parent} is no folder")
    if path is not None and path.is_dir():
        raise InputError(f"--json {path}: a folder, but a file is to be written")
    where = machine()
    print(", ".join(f"{key} {value}" for key, value in where.items()), flush=True)
    figures: list[Figure] = []
    for name in chosen:
        print(f"\n{name}", flush=True)
        figures += load(name).run()
        if path is not None:
            # After each: the whole takes an hour.
            rows = [asdict(own) | {"ratio": own.ratio if own.measured else None, "at_most": own.at_most, "met": own.met} for own in figures]
            write_atomically(path, json.dumps({"machine": where | {"load_after": os.getloadavg()[0]}, "figures": rows}, indent=1).encode())
    print(f"\n{table(figures)}")
    return 0


def load(name: str) -> ModuleType:
    """A benchmark. Raises InputError where a library that it compares with is not installed."""
    try:
        return importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        raise InputError(f"benchmark {name} needs {error.name}; run: {sys.executable} -m pip install -r requirements-dev.txt") from None


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor() or platform.machine())
    versions = {own.name: own.version for own in metadata.distributions() if own.name in LIBRARIES}
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        **gpu,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **versions,
    }


def table(figures: Sequence[Figure]) -> str:
    """All figures with their goals side by side."""
    width = max(len(own.name) for own in figures)
    lines = [f"{'':<{width}} {'ours':>12} {'other':>12} {'unit':>9} {'ratio':>7}  {'of the rounds':<15} goal"]
    for own in figures:
        goal = "" if own.goal is None else f"{'at most' if own.at_most else 'at least'} {own.goal:g}"
        missed = "  MISSED" if own.met is False else ""
        if own.measured:
            both = f"{statistics.median(own.ours):>12,.4g} {statistics.median(own.other):>12,.4g} {own.unit:>9} {own.ratio:>7.3g}  {f'{own.range[0]:.3g}..{own.range[1]:.3g}':<15}"
        else:
            both = f"{'not measured':>43}  {'':<15}"
        lines.append(f"{own.name:<{width}} {both} {goal}{missed}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
