"""Figures and summaries of finished runs.

    python -m plots summary configs/demo.yaml            tables on stdout, the box plot beside the runs
    python -m plots box_plot configs/demo.yaml           accuracy against the number of corruptions
    python -m plots training_curves runs --out figures   the curves of every run in a folder
    python -m plots summary configs/demo.yaml --epochs=1 a list with the overrides that it was run with
    python -m plots summary configs/crossentropy.yaml configs/modules.yaml   a study spread over lists, each run once

Every figure is written as PNG and PDF with the CSV of what is drawn, to figures/<list name>/ beside the runs (of several lists:
to figures/<name>+<name>/, with overrides to figures/<list name>-<overrides>/) or to --out. Evaluations that cannot be compared, on other
compositions or images, have box plots of their own.
"""

import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from errors import Arguments, report_errors
from plots import box_plot, summary, training_curves
from plots.results import Results, add_sources, find, split_sources, write_stdout
from train.entry import runs_root

FIGURES: dict[str, Callable[[Results, Path], list[Path]]] = {
    "summary": summary.summarize,
    "box_plot": box_plot.draw,
    "training_curves": training_curves.draw_results,
}

LETTERS = 60  # of overrides in a folder's name


def main(argv: Sequence[str] | None = None) -> int:
    arguments = Arguments("python -m plots", description=__doc__)
    arguments.add_argument("figure", choices=FIGURES, help="what to draw")
    add_sources(arguments)
    arguments.add_argument("--out", type=Path, metavar="DIR", help="where the files go")
    options, rest = arguments.parse_known_args(argv)
    return report_errors(lambda: draw(options.figure, options.source, options.out, rest))


def draw(figure: str, named: Sequence[str], out: Path | None, rest: Sequence[str]) -> None:
    """Draws a figure of all sources together and prints the paths of its files."""
    sources, overrides = split_sources(named, rest)
    results = find(*sources, overrides=overrides)
    if results.note and figure != "summary":
        print(results.note, file=sys.stderr)
    names = "+".join(dict.fromkeys(Path(source).resolve().stem for source in sources))
    folder = out or runs_root() / "figures" / "-".join(filter(None, [names, name_overrides(overrides)]))
    paths = FIGURES[figure](results, folder)
    write_stdout("".join(f"{path}\n" for path in paths))


def name_overrides(overrides: Mapping[str, Any]) -> str:
    """Overrides as a part of a folder's name, such as `epochs=1-lr=0.5`; of many the start, and a hash of all."""
    words = "-".join(f"{key}={value}" for key, value in sorted(overrides.items()))
    name = re.sub(r"[^\w.=+-]+", "_", words)
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 7]}-{hashlib.sha256(words.encode()).hexdigest()[:6]}"


if __name__ == "__main__":
    sys.exit(main())
