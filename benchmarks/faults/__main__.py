"""Faults of every kind against real runs on a few images: what is lost? (nothing)

python -m benchmarks.faults               some minutes on two cores
python -m benchmarks.faults --quick       a minute: a few of each kind
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from benchmarks.faults import damage, disks, kills, others
from benchmarks.faults.cases import Bench
from benchmarks.faults.trials import SIDE_BY_SIDE, run_trials, table
from errors import Arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 where a result was lost or a fault ended otherwise than it should."""
    arguments = Arguments("python -m benchmarks.faults", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="a few faults of each kind")
    arguments.add_argument("--seed", type=int, default=0, help="of the random moments and bytes (default: 0)")
    options = arguments.parse_args(argv)
    begin = time.perf_counter()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="palimpsest-faults-") as folder:
        # For what killed processes leave behind.
        os.environ["TMPDIR"] = folder
        bench = Bench(Path(folder), options.seed)
        for wave in bench.waves():
            with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
                list(pool.map(bench.run_undisturbed, wave))
        print(
            f"{len(bench.seconds)} undisturbed runs of {min(bench.seconds.values()):.1f} to {max(bench.seconds.values()):.1f} s", flush=True
        )
        trials = [trial for part in (others, kills, damage, disks) for trial in part.trials(bench, options.quick)]
        rows = run_trials(trials, lambda line: print(line, flush=True))
    lines = table(rows)
    print("\n".join(["", *lines]))
    print(
        f"{time.perf_counter() - begin:.0f} s, {SIDE_BY_SIDE} processes at a time; {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {load:.1f} before, Python {platform.python_version()}, torch {metadata.version('torch')}"
    )
    return 1 if any(row.lost or row.unclear for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
