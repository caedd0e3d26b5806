"""Attention transfer against its formula in Python floats."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from losses.attention_transfer import attention_transfer_loss


def attention(map_chw: Tensor, height: int, width: int) -> list[float]:
    """The mean over channels of squares, then over the tiles of a height x width grid, divided by its length, in Python floats."""
    channels, rows, columns = map_chw.shape
    values = map_chw.double().tolist()
    tall, wide = rows // height, columns // width
    found = []
    for top in range(0, rows, tall):
        for left in range(0, columns, wide):
            tile = [values[c][y][x] ** 2 for c in range(channels) for y in range(top, top + tall) for x in range(left, left + wide)]
            found.append(sum(tile) / len(tile))
    length = math.sqrt(sum(x * x for x in found))
    return [x / length for x in found]


def by_definition(student_nchw: Tensor, teacher_nchw: Tensor) -> float:
    height, width = (min(a, b) for a, b in zip(student_nchw.shape[2:], teacher_nchw.shape[2:]))
    squares = [
        (x - y) ** 2
        for own, other in zip(student_nchw, teacher_nchw, strict=True)
        for x, y in zip(attention(own, height, width), attention(other, height, width), strict=True)
    ]
    return sum(squares) / len(squares)


def random_maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 4),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    side=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    student_factor=st.integers(1, 3),
    teacher_factor=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_equals_the_formula(
    images: int, channels: tuple[int, int], side: tuple[int, int], student_factor: int, teacher_factor: int, seed: int
) -> None:
    # One of both sides is a multiple of the other, so that pooling is the mean over tiles.
    student_factor, teacher_factor = (student_factor, 1) if seed % 2 else (1, teacher_factor)
    student = random_maps(images, channels[0], side[0] * student_factor, side[1] * student_factor, seed=seed)
    teacher = random_maps(images, channels[1], side[0] * teacher_factor, side[1] * teacher_factor, seed=seed + 1)
    assert attention_transfer_loss(student, teacher).item() == pytest.approx(by_definition(student, teacher), rel=1e-9, abs=1e-13)


def test_neither_scale_nor_sign_nor_the_order_of_channels_matters() -> None:
    student, teacher = random_maps(2, 3, 4, 5, 5)
    loss = attention_transfer_loss(student, teacher)
    torch.testing.assert_close(attention_transfer_loss(-7 * student.flip(1), teacher / 100), loss)
    assert attention_transfer_loss(-3 * teacher.flip(1), teacher).item() == pytest.approx(0, abs=1e-15)


def test_attention_at_different_places_in_closed_form() -> None:
    student, teacher = torch.zeros(3, 2, 2, 2), torch.zeros(3, 5, 2, 2)
    student[:, :, 0, 0], teacher[:, :, 1, 1] = 3, -1
    # Unit vectors at right angles, over four places.
    assert attention_transfer_loss(student, teacher).item() == pytest.approx(2 / 4)


@pytest.mark.parametrize("side", [2, 4, 8])
def test_gradients(side: int) -> None:
    student, teacher = random_maps(2, 3, 4, 4), random_maps(2, 2, side, side, seed=1)
    assert torch.autograd.gradcheck(lambda x: attention_transfer_loss(x, teacher), student.requires_grad_())


def test_equal_maps_and_a_map_of_zeros_have_finite_gradients() -> None:
    teacher = random_maps(3, 4, 5, 5).float()
    teacher[1] = 0
    student = teacher.clone().requires_grad_()
    loss = attention_transfer_loss(student, teacher)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()
    dead = torch.zeros(3, 4, 5, 5, requires_grad=True)
    attention_transfer_loss(dead, teacher).backward()
    assert dead.grad is not None
    assert dead.grad.isfinite().all()


def test_autocast_does_not_lower_its_precision() -> None:
    student, teacher = random_maps(4, 6, 8, 8).float(), random_maps(4, 3, 4, 4, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = attention_transfer_loss(student, teacher)
        rounded = attention_transfer_loss(student.bfloat16(), teacher.bfloat16())
    assert inside.dtype == rounded.dtype == torch.float32
    assert inside.item() == pytest.approx(by_definition(student, teacher), rel=1e-5)
    assert rounded.item() == pytest.approx(by_definition(student.bfloat16(), teacher.bfloat16()), rel=1e-5)
