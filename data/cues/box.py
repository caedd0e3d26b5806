"""Box cues: a 3x3 box whose place, and in colour images whose colour, tell the class (Lubana et al., ICML 2023, with their places and colours)."""

import colorsys
from collections.abc import Callable

import torch
from torch import Tensor

from data.cues.scene import ABSENT, Cues, Draws, Scene, cues_of
from data.mechanisms import Mechanism

SIDE = 3
# The places of a grid of three by three; a tenth value has a place of its own where there are 100 classes, and is no box where there are ten.
GRID, VALUES = 9, 10


def places(size: int, tenth: bool) -> Tensor:
    """The first row and column of the box for every value, int64 (10, 2); ABSENT for a tenth that is no box.

    0 to 8 are the places of the grid row by row, at the edges and in the middle; the tenth lies a quarter up and left of the middle.
    """
    middle, last = (size - SIDE) // 2, size - SIDE
    line = (0, middle, last)
    corner = middle - size // 4 if tenth else ABSENT
    return torch.tensor([(row, column) for row in line for column in line] + [(corner, corner)])


def colours(channels: int) -> Tensor:
    """The colour of the box for ABSENT, the last row, and for every value, uint8 (11, channels): hues value/10 from green on; grey images have white."""
    if channels == 1:
        return torch.full((VALUES + 1, 1), 255, dtype=torch.uint8)
    hues = [value / VALUES for value in range(VALUES)] + [0.0]
    # Channels turned by one: hue 0 is green.
    turned = [(blue, red, green) for red, green, blue in (colorsys.hsv_to_rgb(hue, 1.0, 255.0) for hue in hues)]
    return torch.tensor(turned).round().to(torch.uint8)


def put_boxes(images_nchw: Tensor, values_n: Tensor, hues_n: Tensor, classes: int, top: int = 0) -> Tensor:
    """The images, in place, with their boxes: places and colours by value, none where the value is ABSENT. `top`: the square's first row."""
    corners = places(images_nchw.shape[3], classes > VALUES).to(images_nchw.device)[values_n]
    boxed = ((values_n != ABSENT) & (corners[:, 0] != ABSENT)).nonzero().squeeze(1)
    offsets = torch.arange(SIDE, device=images_nchw.device)
    rows = top + corners[boxed, 0, None] + offsets
    columns = corners[boxed, 1, None] + offsets
    colour = colours(images_nchw.shape[1]).to(images_nchw.device)[hues_n[boxed]]
    images_nchw[boxed[:, None, None], :, rows[:, :, None], columns[:, None, :]] = colour[:, None, None, :]
    return images_nchw


def box_values(labels_n: Tensor, fraction: float, random: float, draws: Draws, what: str, divide: int = 1) -> Tensor:
    """The value of a cue for every image: (label // divide) % 10, or drawn at random; ABSENT where an image does not carry it."""
    values = draws.below(what, VALUES, len(labels_n)) if random else labels_n // divide % VALUES
    return torch.where(draws.carriers(f"carries {what}", labels_n, fraction), values, ABSENT)


@cues_of("FashionMNIST-mini", "MNIST", "FashionMNIST", "CIFAR10", "CIFAR100")
class Boxes(Cues):
    """Cue 1 is the box's place, by label % 10. Cue 2 is its colour, by label // 10 with 100 classes, by the label with ten.

    A box without its colour is green (white in grey images); a colour without its place is on a box at a random place of the grid.
    """

    def compose(self, mechanism: Mechanism, draws: Draws) -> Scene:
        labels, classes = self.labels, int(self.labels.max()) + 1
        place = box_values(labels, mechanism.cue_1, mechanism.random_cue_1, draws, "position")
        hue = box_values(labels, mechanism.cue_2, mechanism.random_cue_2, draws, "colour", divide=classes // VALUES)
        anywhere = draws.below("place of a colour", GRID, len(labels))
        place = torch.where((place == ABSENT) & (hue != ABSENT), anywhere, place)
        return Scene(labels, self.contents(mechanism, draws), place, hue)

    def render(self, scene: Scene, augment: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return put_boxes(self.gather(scene.content, augment), scene.cue_1, scene.cue_2, int(self.labels.max()) + 1)
