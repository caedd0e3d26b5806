"""What an analysis of layers is given, and the table that it gives back."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from analysis.pictures import Pictures
from errors import InputError
from models.networks import Network


class System(Protocol):
    """A finished system, in eval mode: logits (N, classes) of network inputs under a composition. `network` has the layers and levels that are looked at."""

    network: Network

    def __call__(self, images_nchw: Tensor, composition: Any) -> Tensor: ...


@dataclass(frozen=True)
class Seen:
    """A finished system and the images to look at. `untrained` builds the same system around the network as it was before its training.

    `tick` is called for every chunk of images and may raise; `image_steps` are the rows that went through the network in training.
    """

    name: str
    system: System
    untrained: Callable[[], System]
    pictures: Pictures
    shape: tuple[int, int, int]
    classes: int
    device: torch.device
    image_steps: int = 0
    tick: Callable[[], object] = lambda: None

    @property
    def network(self) -> Network:
        return self.system.network

    def responses(self, system: System, split: str, condition: str, images: int | None, first: int = 0) -> Iterator[Tensor]:
        """The logits of every chunk of images; taps see what happens on the way."""
        names = self.pictures.names(condition)
        with torch.no_grad():
            for chunk in self.pictures.batches(split, condition, images, first):
                yield system(chunk, names)
                self.tick()


class Row(NamedTuple):
    """One value of an analysis, with the columns of the results table that it has."""

    metric: str
    value: float
    layer: str = ""
    split: str = ""
    composition: str = ""


COLUMNS = Row._fields
TABLE = "table.csv"


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
            return [Row(**{**row, "value": float(row["value"])}) for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        problem = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        raise InputError(f"{path}: {problem}; delete {folder} and run the analysis again") from None
