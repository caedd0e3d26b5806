"""The figures of the README, each as a ratio in one run.

python -m benchmarks                       all
python -m benchmarks corruptions           one of them

What is lost by kills, full disks and the like is measured by itself: python -m benchmarks.faults
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import importlib
import pkgutil
import platform
import sys
from collections.abc import Sequence

import torch

import benchmarks
from errors import Arguments


def main(argv: Sequence[str] | None = None) -> int:
    names = sorted(file.name for file in pkgutil.iter_modules(benchmarks.__path__) if not (file.name.startswith("_") or file.ispkg))
    arguments = Arguments("python -m benchmarks", description=__doc__)
    arguments.add_argument("name", nargs="*", help=f"which: {', '.join(names)} (default: all)")
    chosen = arguments.parse_args(argv).name or names
    if unknown := set(chosen) - set(names):
        print(f"error: no benchmark {', '.join(sorted(unknown))}; allowed: {', '.join(names)}", file=sys.stderr)
        return 2
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    rows = [row for name in chosen for row in importlib.import_module(f"benchmarks.{name}").run()]
    width = max(len(row["name"]) for row in rows)
    print(f"\n{'':<{width}} {'ours':>12} {'other':>12} {'unit':>9} {'ratio':>7}  goal")
    for row in rows:
        goal = "" if row["goal"] is None else f"{'at most' if row.get('at_most') else 'at least'} {row['goal']:g}"
        print(f"{row['name']:<{width}} {row['ours']:>12,.4g} {row['other']:>12,.4g} {row['unit']:>9} {row['ratio']:>7.3g}  {goal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
