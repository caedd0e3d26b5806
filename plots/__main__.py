"""Figures and summaries of finished runs.

    python -m plots summary configs/demo.yaml            tables on stdout, the box plot beside the runs
    python -m plots box_plot configs/demo.yaml           accuracy against the number of corruptions
    python -m plots heat_map configs/demo.yaml           accuracy on every composition
    python -m plots effects configs/demo.yaml            what each corruption costs, first or later, and which pairs commute
    python -m plots paired configs/demo.yaml             systems against each other on the same images
    python -m plots training_curves runs --out figures   the curves of every run in a folder, and the level searches
    python -m plots invariance configs/demo.yaml         after: python -m analysis invariance configs/demo.yaml
    python -m plots report configs/demo.yaml             all of these in one HTML file

    python -m plots cue_reliance configs/distill_demo.yaml          accuracy with a cue less accuracy with the cue random
    python -m plots mechanism_heat_map configs/distill_demo.yaml    students by their data's and their teacher's mechanism, for each counterfactual set
    python -m plots mechanism_curves configs/distill_demo.yaml      the same against the iteration
    python -m plots mechanism_conditions configs/distill_demo.yaml  students under eight conditions
    python -m plots tsne configs/distill_demo.yaml                  features in the plane; after: python -m analysis features configs/distill_demo.yaml

    python -m plots layers configs/representation_demo.yaml                saturation and probes by layer, with the border of the receptive field
    python -m plots layers_over_epochs configs/representation_demo.yaml    saturation along the training
    python -m plots probe_profiles configs/representation_demo.yaml        probes by level under every composition; saturation_profiles likewise
    python -m plots projection configs/representation_demo.yaml            accuracy with every layer projected
    python -m plots probe_map CONFIG                                       probes of single positions; after: python -m analysis probes CONFIG --pooling=pixel
    python -m plots layer_table CONFIG                                     models with their accuracy, cost and saturation

    python -m plots sweep configs/sweeps/demo_step_one.yaml   the trials of a search, also as ENTITY/PROJECT/SWEEP

    python -m plots summary configs/demo.yaml --epochs=1 a list with the overrides that it was run with
    python -m plots summary configs/crossentropy.yaml configs/modules.yaml   a study spread over lists, each run once
    python -m plots box_plot ENTITY/PROJECT              the runs of a W&B project (--group NAME, --tag NAME), or of a W&B sweep
    python -m plots box_plot configs/demo.yaml --from ENTITY/PROJECT   the runs of a list, as W&B has them

Every figure is written as PNG and PDF with the CSV of what is drawn, to figures/<list name>/ beside the runs (of several lists:
to figures/<name>+<name>/, with overrides to figures/<list name>-<overrides>/) or to --out. Evaluations that cannot be compared, on other
compositions or images, have box plots of their own.
"""

import hashlib
import re
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from errors import Arguments, InputError, report_errors
from plots.figures import FIGURES, SEARCH_FIGURES
from plots.results import LISTS, Sources, add_sources, find, read_sources, write_stdout
from train.entry import runs_root

LETTERS, SOURCE_LETTERS = 60, 120  # of overrides and of sources in a folder's name


def main(argv: Sequence[str] | None = None) -> int:
    arguments = Arguments("python -m plots", description=__doc__)
    arguments.add_argument("figure", choices=[*FIGURES, *SEARCH_FIGURES], help="what to draw")
    add_sources(arguments)
    arguments.add_argument("--out", type=Path, metavar="DIR", help="where the files go")
    options, rest = arguments.parse_known_args(argv)
    return report_errors(lambda: draw(options, rest))


def draw(options: Namespace, rest: Sequence[str]) -> None:
    """Draws a figure of all sources together and prints the paths of its files."""
    sources = read_sources(options, rest)
    folder = options.out or runs_root() / "figures" / name_folder(sources)
    paths = (
        draw_search(options.figure, sources, folder) if options.figure in SEARCH_FIGURES else draw_results(options.figure, sources, folder)
    )
    write_stdout("".join(f"{path}\n" for path in paths))


def draw_results(figure: str, sources: Sources, folder: Path) -> list[Path]:
    results = find(*sources.named, overrides=sources.overrides, origin=sources.origin, wanted=sources.wanted)
    if results.note and figure != "summary":
        print(results.note, file=sys.stderr)
    return FIGURES[figure](results, folder)


def draw_search(figure: str, sources: Sources, folder: Path) -> list[Path]:
    if len(sources.named) > 1 or sources != Sources(sources.named, sources.overrides):
        raise InputError(f"{figure}: takes one sweep (a sweep file, or ENTITY/PROJECT/SWEEP), without --from, --group and --tag")
    return SEARCH_FIGURES[figure](sources.named[0], sources.overrides, folder)


def name_folder(sources: Sources) -> str:
    """The name of the folder of a figure's files."""
    wanted = sources.wanted
    named = shorten("+".join(dict.fromkeys(map(name_source, sources.named))), SOURCE_LETTERS)
    more = (sources.origin.replace("/", "-"), wanted.group.replace(" ", "-"), *wanted.tags, name_overrides(sources.overrides))
    return "-".join(filter(None, [named, *more]))


def name_source(source: str) -> str:
    """What a source is called in a folder's name: a list without its ending, a folder as it is (`wandb` with the run that it belongs to)."""
    path = Path(source).resolve()
    if path.suffix in LISTS:
        return path.stem
    return f"{path.parent.name}-{path.name}" if path.name == "wandb" else path.name


def shorten(words: str, letters: int) -> str:
    """Words of at most so many letters; of longer ones the start, and a hash of all."""
    return words if len(words) <= letters else f"{words[: letters - 7]}-{hashlib.sha256(words.encode()).hexdigest()[:6]}"


def name_overrides(overrides: Mapping[str, Any]) -> str:
    """Overrides as a part of a folder's name, such as `epochs=1-lr=0.5`; of many the start, and a hash of all."""
    words = "-".join(f"{key}={value}" for key, value in sorted(overrides.items()))
    return shorten(re.sub(r"[^\w.=+-]+", "_", words), LETTERS)


if __name__ == "__main__":
    sys.exit(main())
