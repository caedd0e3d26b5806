"""The table that an analysis of layers gives: one value a row, with the columns of the results table that it has. Loads without torch."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from errors import InputError


class Row(NamedTuple):
    """One value of an analysis, with the columns of the results table that it has."""

    metric: str
    value: float
    layer: str = ""
    split: str = ""
    composition: str = ""


COLUMNS = Row._fields
TABLE = "table.csv"
OPTIONS = "options.json"  # with what it was made


def to_csv(rows: Iterable[Row]) -> bytes:
    """Rows as CSV; values keep every digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([row._replace(value=repr(float(row.value))) for row in rows])  # type: ignore[arg-type]
    return text.getvalue().encode()


def read_table(folder: Path) -> list[Row]:
    """The rows of a finished analysis; InputError where its table is missing or damaged."""
    path = folder / TABLE
    try:
        with path.open(newline="") as file:
            return [Row(row["metric"], float(row["value"]), row["layer"], row["split"], row["composition"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        problem = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        raise InputError(f"{path}: {problem}; delete {folder} and run the analysis again") from None
