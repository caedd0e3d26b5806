"""CRD against its formula in Python floats, its banks and its Z, and both ways to its dot products."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from losses.crd import CRD, EPSILON

STUDENT, TEACHER, IMAGES, DIM = 6, 5, 20, 4
# With four images in a batch: fewer rows of the bank than images, and more.
FEW, MANY = 3, 9
BANKS = ("student_bank_me", "teacher_bank_me")


def crd(negatives: int, seed: int = 0, **more: float) -> CRD:
    torch.manual_seed(seed)
    return CRD(STUDENT, TEACHER, IMAGES, DIM, negatives, **more).double()


def random_batch(negatives: int, images: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features of both networks, their images' numbers (each once) and negatives."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(images, units, dtype=torch.float64, generator=generator) for units in (STUDENT, TEACHER))
    index = torch.randperm(IMAGES, generator=generator)[:images]
    return student, teacher, index, torch.randint(IMAGES, (images, negatives), generator=generator)


def state(module: CRD) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def embedded(module: CRD, student_nu: Tensor, teacher_nu: Tensor) -> list[list[list[float]]]:
    """Both embeddings in Python floats."""
    found = []
    for layer, features in ((module.embeddings.student, student_nu), (module.embeddings.teacher, teacher_nu)):
        rows = []
        for image in features.double().tolist():
            lines = zip(layer.weight.double().tolist(), layer.bias.double().tolist(), strict=True)
            row = [sum(w * x for w, x in zip(line, image, strict=True)) + bias for line, bias in lines]
            length = math.sqrt(sum(x * x for x in row))
            rows.append([x / length for x in row])
        found.append(rows)
    return found


def by_definition(module: CRD, batch: tuple[Tensor, Tensor, Tensor, Tensor], z: list[float] | None = None) -> tuple[float, list[float]]:
    """The loss, and Z of both sides (made from this batch unless given), from Python floats alone and before the banks move."""
    student_nu, teacher_nu, index_n, negatives_nk = batch
    count, negatives, total, used = len(index_n), negatives_nk.shape[1], 0.0, []
    banks = (module.teacher_bank_me.double().tolist(), module.student_bank_me.double().tolist())
    for side, (own, bank) in enumerate(zip(embedded(module, student_nu, teacher_nu), banks, strict=True)):
        scores = [
            [math.exp(sum(x * y for x, y in zip(own[i], bank[row], strict=True)) / module.temperature) for row in (place, *drawn)]
            for i, (place, drawn) in enumerate(zip(index_n.tolist(), negatives_nk.tolist(), strict=True))
        ]
        used.append(sum(map(sum, scores)) / (count * (negatives + 1)) * IMAGES if z is None else z[side])
        noise = negatives / IMAGES
        for positive, *others in ([score / used[side] for score in row] for row in scores):
            total -= math.log(positive / (positive + noise + EPSILON)) / count
            total -= sum(math.log(noise / (p + noise + EPSILON)) for p in others) / count
    return total, used


@settings(max_examples=30, deadline=None)
@given(
    negatives=st.integers(1, IMAGES),
    images=st.integers(1, 6),
    temperature=st.floats(0.05, 3),
    seed=st.integers(0, 2**16),
    training=st.booleans(),
)
def test_equals_the_formula(negatives: int, images: int, temperature: float, seed: int, training: bool) -> None:
    module, batch = crd(negatives, seed, temperature=temperature).train(training), random_batch(negatives, images, seed)
    expected, _ = by_definition(module, batch)
    assert module.against(*batch).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("negatives", [FEW, MANY])
def test_z_is_that_of_the_first_batch_for_ever(negatives: int) -> None:
    module, first, second = crd(negatives), random_batch(negatives), random_batch(negatives, seed=1)
    _, z = by_definition(module, first)
    assert module.log_z_2.isnan().all()
    module.against(*first)
    assert module.log_z_2.exp().tolist() == pytest.approx(z, rel=1e-9)
    # The banks have moved in between, Z has not.
    expected, other = by_definition(module, second, z)
    assert other == z
    assert module.against(*second).item() == pytest.approx(expected, rel=1e-9)
    assert module.log_z_2.exp().tolist() == pytest.approx(z, rel=1e-9)
    assert by_definition(module, second)[1] != pytest.approx(z, rel=1e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 1.0])
def test_banks_move_to_the_new_embeddings_and_keep_length_one(momentum: float) -> None:
    module, batch = crd(MANY, momentum=momentum), random_batch(MANY)
    student, teacher, index, _ = batch
    before, untouched = state(module), [row for row in range(IMAGES) if row not in index.tolist()]
    module.against(*batch)
    for name, own in zip(BANKS, embedded(module, student, teacher), strict=True):
        bank = getattr(module, name)
        for place, new in zip(index.tolist(), own, strict=True):
            moved = [momentum * x + (1 - momentum) * y for x, y in zip(before[name][place].tolist(), new, strict=True)]
            length = math.sqrt(sum(x * x for x in moved))
            assert bank[place].tolist() == pytest.approx([x / length for x in moved], rel=1e-9)
        torch.testing.assert_close(bank[index].norm(dim=1), torch.ones(4, dtype=torch.float64))
        assert torch.equal(bank[untouched], before[name][untouched])
        assert not bank.requires_grad


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16), steps=st.integers(1, 5))
def test_rows_stay_of_length_one_however_often_they_move(seed: int, steps: int) -> None:
    module, seen = crd(FEW, seed), set()
    for step in range(steps):
        batch = random_batch(FEW, seed=seed + step)
        module.against(*batch)
        seen |= set(batch[2].tolist())
    for name in BANKS:
        lengths = getattr(module, name)[sorted(seen)].norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("steps", [0, 2])
def test_nothing_moves_in_eval_mode(steps: int) -> None:
    module, batch = crd(MANY), random_batch(MANY)
    for step in range(steps):
        module.against(*random_batch(MANY, seed=step + 1))
    module.eval()
    before = state(module)
    first, again = module.against(*batch), module.against(*batch)
    assert torch.equal(first, again)
    assert all(torch.equal(tensor.nan_to_num(-1), before[name].nan_to_num(-1)) for name, tensor in module.state_dict().items())
    module.train().against(*batch)
    assert not torch.equal(module.student_bank_me, before["student_bank_me"])


def test_a_state_that_was_stored_gives_the_same_loss() -> None:
    module, other = crd(MANY), crd(MANY, seed=1)
    for step in range(3):
        module.against(*random_batch(MANY, seed=step))
    batch = random_batch(MANY, seed=9)
    assert not torch.equal(other.eval().against(*batch), copy.deepcopy(module).eval().against(*batch))
    other.train().load_state_dict(module.state_dict())
    for _ in range(2):  # the second time with banks that have moved on
        assert torch.equal(other.against(*batch), module.against(*batch))


def test_both_ways_to_the_dot_products_agree() -> None:
    module, batch = crd(MANY), random_batch(MANY)
    module.against(*random_batch(MANY, seed=1))  # so that Z is known
    module.eval()
    assert len(batch[2]) * (MANY + 1) > IMAGES >= MANY + 1
    inputs = [features.requires_grad_() for features in batch[:2]] + list(module.parameters())
    together = module.against(*batch)
    # Image by image there are fewer rows than images, so they are gathered before they are multiplied.
    apart = torch.stack([module.against(*(part[i : i + 1] for part in batch)) for i in range(4)]).mean()
    torch.testing.assert_close(together, apart)
    for first, second in zip(torch.autograd.grad(together, inputs), torch.autograd.grad(apart, inputs), strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("negatives", [FEW, MANY])
def test_gradients(negatives: int) -> None:
    module, batch = crd(negatives, temperature=0.5), random_batch(negatives)
    module.against(*random_batch(negatives, seed=1))
    module.eval()
    student, teacher, index, drawn = batch
    assert torch.autograd.gradcheck(
        lambda s, t, *_: module.against(s, t, index, drawn), (student.requires_grad_(), teacher.requires_grad_(), *module.parameters())
    )


@pytest.mark.parametrize("negatives", [FEW, MANY])
def test_gradients_are_those_before_the_banks_move(negatives: int) -> None:
    module, batch = crd(negatives), random_batch(negatives)
    module.against(*random_batch(negatives, seed=1))
    still = copy.deepcopy(module).eval()
    for part in (module, still):
        part.against(*batch).backward()
    assert not torch.equal(module.teacher_bank_me, still.teacher_bank_me)
    for found, expected in zip(module.parameters(), still.parameters(), strict=True):
        assert expected.grad is not None
        assert expected.grad.abs().max() > 1e-3
        torch.testing.assert_close(found.grad, expected.grad)


def test_negatives_are_drawn_from_all_images_by_torchs_generator() -> None:
    module, (student, teacher, index, _) = crd(MANY).eval(), random_batch(MANY)
    torch.manual_seed(5)
    loss = module(student, teacher, index)
    torch.manual_seed(5)
    assert torch.equal(module(student, teacher, index), loss)
    torch.manual_seed(5)
    drawn = torch.randint(IMAGES, (4, MANY))
    assert torch.equal(module.against(student, teacher, index, drawn), loss)
    assert not torch.equal(module(student, teacher, index), loss)


@pytest.mark.parametrize(("asked", "used"), [(1, 1), (IMAGES, IMAGES), (IMAGES + 1, IMAGES), (16_384, IMAGES)])
def test_there_are_at_most_as_many_negatives_as_images(asked: int, used: int) -> None:
    module, (student, teacher, index, _) = crd(asked).eval(), random_batch(1)
    assert module.negatives == used
    torch.manual_seed(5)
    loss = module(student, teacher, index)
    torch.manual_seed(5)
    expected, _ = by_definition(module, (student, teacher, index, torch.randint(IMAGES, (4, used))))
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_maps_are_flattened() -> None:
    module, (student, teacher, index, drawn) = crd(FEW).eval(), random_batch(FEW)
    assert torch.equal(
        module.against(student.view(4, 3, 2, 1), teacher.view(4, 5, 1, 1), index, drawn), module.against(student, teacher, index, drawn)
    )


@pytest.mark.parametrize("negatives", [FEW, MANY])
def test_zero_vectors_have_finite_gradients(negatives: int) -> None:
    module, (student, teacher, index, drawn) = crd(negatives).float(), random_batch(negatives)
    torch.nn.init.zeros_(module.embeddings.student.bias)
    student, teacher = student.float(), teacher.float()
    student[1] = 0
    student.requires_grad_()
    loss = module.against(student, teacher, index, drawn)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1e3
    assert module.student_bank_me.isfinite().all()


def test_float32_stays_finite_at_a_low_temperature() -> None:
    # exp(1 / 0.005) is more than float32 holds.
    module, batch = crd(MANY, temperature=0.005).float(), random_batch(MANY)
    exact = crd(MANY, temperature=0.005)
    exact.load_state_dict(module.state_dict())
    expected, _ = by_definition(exact, batch)
    loss = module.against(batch[0].float(), batch[1].float(), *batch[2:])
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())


def test_autocast_does_not_lower_its_precision() -> None:
    module, (student, teacher, index, drawn) = crd(MANY).float().eval(), random_batch(MANY)
    expected, _ = by_definition(module, (student.float(), teacher.float(), index, drawn))
    narrow = student.bfloat16(), teacher.bfloat16()
    rounded, _ = by_definition(module, (*narrow, index, drawn))
    with torch.autocast("cpu", torch.bfloat16):
        losses = [module.against(student.float(), teacher.float(), index, drawn), module.against(*narrow, index, drawn)]
    assert {loss.dtype for loss in losses} == {torch.float32}
    assert [loss.item() for loss in losses] == pytest.approx([expected, rounded], rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"momentum": -0.1}, "momentum"),
        ({"momentum": 1.1}, "momentum"),
        ({"negatives": 0}, "negatives"),
        ({"n_images": 0}, "images"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        CRD(**({"student_units": STUDENT, "teacher_units": TEACHER, "n_images": IMAGES} | wrong))
