"""Writes lists of experiments from a grid of choices.

python -m configs                                                all committed lists and sweep files, as they are
python -m configs modules --dataset=EMNIST,MNIST --seed=1,2 --out configs/mine.yaml
python -m configs modules --module.lr=0.1,0.01 --epochs=20 --out configs/mine.yaml
python -m configs matrix configs/mine_matrix.yaml --out configs/mine.yaml

A matrix is a list of entries whose values may be lists: `{dataset: CIFAR10, method: Identity, model: [VGG11, VGG16], lr: [0.1, 0.01]}` stands for four. Fields
that are lists by themselves (corruptions, tags, delta ...) vary where they are lists of lists.

Several values, with commas between them, make a grid. `dataset` and `seed` take the place of the list's own, PART.KEY changes a
hyperparameter of a part wherever it stands (parts: identity, crossentropy, contrastive, backbone, module, manual, autoencoder,
classifier, router), any other key, of lists of teachers and students also dotted (teacher.lr), stands in every entry.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.lists import LISTS
from configs.matrix import flatten
from configs.searches import SEARCHES, sweep_text
from configs.studies import write
from errors import Arguments, InputError, report_errors
from train.build import build
from train.fields import FieldError, choose
from train.lists import parse, read_yaml

FOLDER = Path(__file__).resolve().parent
SWEEPS = FOLDER / "sweeps"
MATRIX = "matrix"
UNKNOWN = "Not run yet: nothing is known of its time and numbers."


def main(argv: Sequence[str] | None = None) -> int:
    arguments = Arguments("python -m configs", description=__doc__)
    arguments.add_argument(
        "name", nargs="?", choices=[*LISTS, MATRIX], help="the list that is varied, or `matrix`; without it all are written"
    )
    arguments.add_argument("matrix", nargs="?", metavar="MATRIX.yaml", help="with `matrix`: a list of entries whose values may be lists")
    arguments.add_argument("--out", type=Path, metavar="FILE.yaml", help="where the varied list goes")
    options, rest = arguments.parse_known_args(argv)
    return report_errors(lambda: run(options.name, options.matrix, options.out, rest))


def run(name: str | None, matrix: str | None, out: Path | None, rest: Sequence[str]) -> None:
    """Writes the committed lists and sweep files, or one list that is varied, and prints the paths."""
    if name is None:
        if out or rest:
            raise InputError(f"name the list to vary: python -m configs NAME {' '.join(rest)}; allowed: {', '.join(LISTS)}")
        for own in LISTS:
            save(FOLDER / f"{own}.yaml", committed(own))
        for own in SEARCHES:
            save(SWEEPS / f"{own}.yaml", sweep_text(own))
        return
    if name == MATRIX and matrix is None:
        raise InputError("matrix: names no file; write: python -m configs matrix MATRIX.yaml --out FILE.yaml")
    if out is None:
        raise InputError(f"--out is missing; write: python -m configs {' '.join(filter(None, [name, matrix, *rest]))} --out FILE.yaml")
    if out.resolve() in {*(FOLDER / f"{own}.yaml" for own in LISTS), *(SWEEPS / f"{own}.yaml" for own in SEARCHES)}:
        raise InputError("--out must name a file of your own: a varied list does not take the place of a committed one")
    if (matrix is None) == (name == MATRIX):
        raise InputError("a file goes with `matrix`, and only with that: python -m configs matrix MATRIX.yaml --out FILE.yaml")
    if matrix is not None:
        if rest:
            raise InputError(f"{rest[0]}: what varies stands in {matrix} itself")
        if out.resolve() == Path(matrix).resolve():
            raise InputError(f"--out {out}: is the matrix itself")
        origin = f"Written by: python -m configs matrix {matrix} --out {out}"
        save(out, write(str(out), origin, UNKNOWN, flatten(matrix, read_yaml(matrix))))
        return
    blocks = LISTS[name].entries(out.stem, read_choices(name, rest))
    for entry in (entry for _, entries in blocks for entry in entries):
        try:
            build(entry)
        except FieldError as error:
            raise InputError(f"{name}: {error}") from None
    origin = f"Written by: {' '.join(['python -m configs', name, *rest, '--out', str(out)])}"
    save(out, write(str(out), origin, UNKNOWN, blocks))


def committed(name: str) -> str:
    """The text of a committed list."""
    study = LISTS[name]
    path = f"configs/{name}.yaml"
    return write(path, study.time, study.expect.replace("THIS", path), study.entries(name))


def read_choices(name: str, arguments: Sequence[str]) -> dict[str, list[Any]]:
    """`--seed=1,2 --module.lr=0.1` as values by key; InputError where an argument has another form or a data set has no recipe."""
    choices: dict[str, list[Any]] = {}
    for argument in arguments:
        match = re.fullmatch(r"--([A-Za-z_][\w.]*)=(.+)", argument, re.DOTALL)
        if not match:
            raise InputError(f"unknown argument {argument!r}; choices have the form --key=value or --key=value,value (no space)")
        try:
            choices[match[1]] = parse(f"[{match[2]}]")
        except (yaml.YAMLError, ValueError):
            raise InputError(f"--{match[1]}: {match[2]!r} is no list of YAML values") from None
    try:
        names = [str(choose("dataset", value)) for value in choices.get("dataset", [])]
    except ValueError as error:
        raise InputError(f"--dataset: {error}") from None
    for dataset in names:
        if dataset not in LISTS[name].recipes:
            able = ", ".join(LISTS[name].recipes)
            raise InputError(f"--dataset={dataset}: there are no hyperparameters of {name} for it in configs/; there are some for {able}")
    return choices | ({"dataset": names} if names else {})


def save(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    print(path)


if __name__ == "__main__":
    sys.exit(main())
