"""Jacobians against one backward pass for each image and class; the loss against its formula, its gradient against finite differences."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from losses.jacobian import jacobian_loss, jacobians, top_classes

CLASSES = 5


def network(seed: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """A small float64 network in eval mode, with max-pooling and batch norms whose statistics and weights are not trivial."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        activation(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(4, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        activation(),
        nn.Flatten(),
        nn.Linear(27, CLASSES),
    ).double()
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 2)
            for tensor in (layer.bias, layer.running_mean):
                nn.init.uniform_(tensor, -0.3, 0.3)
    return net.eval()


def random_images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def all_classes(count: int) -> Tensor:
    return torch.arange(CLASSES).expand(count, CLASSES)


def one_by_one(net: nn.Module, images_nchw: Tensor, classes_nk: Tensor, create_graph: bool = False) -> Tensor:
    """Row j of image b by a forward and a backward pass of its own: (N, k, C*H*W)."""
    rows = []
    for image, classes in zip(images_nchw, classes_nk.tolist(), strict=True):
        for chosen in classes:
            alone = image[None].clone().requires_grad_()
            (row,) = torch.autograd.grad(net(alone)[0, chosen], alone, create_graph=create_graph)
            rows.append(row.flatten())
    return torch.stack(rows).view(*classes_nk.shape, -1)


def by_definition(student_nkd: Tensor, teacher_nkd: Tensor) -> float:
    """The mean over images of the squared distance of both directions, from Python floats alone."""
    total = 0.0
    for own, other in zip(student_nkd.double().flatten(1).tolist(), teacher_nkd.double().flatten(1).tolist(), strict=True):
        lengths = [math.sqrt(sum(x * x for x in row)) for row in (own, other)]
        total += sum((x / lengths[0] - y / lengths[1]) ** 2 for x, y in zip(own, other, strict=True))
    return total / len(student_nkd)


def distance(student: Callable[[Tensor], Tensor], teacher: nn.Module, images_nchw: Tensor, k: int) -> Tensor:
    """The loss as students have it."""
    classes = top_classes(teacher(images_nchw), k)
    _, taught = jacobians(teacher, images_nchw, classes, create_graph=False)
    _, own = jacobians(student, images_nchw, classes, create_graph=True)
    return jacobian_loss(own, taught)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 4), k=st.integers(1, CLASSES), seed=st.integers(0, 2**16), graph=st.booleans())
def test_jacobians_equal_one_backward_pass_for_each_image_and_class(count: int, k: int, seed: int, graph: bool) -> None:
    net, images = network(seed), random_images(count, seed)
    classes = torch.stack([torch.randperm(CLASSES)[:k] for _ in range(count)])
    logits, rows = jacobians(net, images, classes, create_graph=graph)
    torch.testing.assert_close(logits, net(images), check_device=False)
    torch.testing.assert_close(rows, one_by_one(net, images, classes))
    assert rows.shape == (count, k, 72)
    assert rows.requires_grad == logits.requires_grad == graph
    assert not images.requires_grad


@pytest.mark.parametrize("k", [1, 3, CLASSES])
def test_the_loss_and_its_gradient_equal_those_of_the_double_loop(k: int) -> None:
    student, teacher, images = network(1), network(2), random_images(4)
    classes = top_classes(teacher(images), k)
    loss = distance(student, teacher, images, k)
    own = one_by_one(student, images, classes, create_graph=True)
    taught = one_by_one(teacher, images, classes)
    assert loss.item() == pytest.approx(by_definition(own.detach(), taught), rel=1e-10)
    norms = [rows.flatten(1).norm(dim=1)[:, None, None] for rows in (own, taught)]
    slow = (own / norms[0] - taught / norms[1]).square().sum((1, 2)).mean()
    for found, expected in zip(*(torch.autograd.grad(value, list(student.parameters()), allow_unused=True) for value in (loss, slow))):
        if expected is None:  # the last bias moves no gradient
            assert found is None or not found.any()
        else:
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Softplus])
def test_the_gradient_of_the_loss_equals_finite_differences(activation: Callable[[], nn.Module]) -> None:
    student, teacher, images = network(1, activation), network(2, activation), random_images(3)
    names = [name for name, _ in student.named_parameters()]

    def of_weights(*weights: Tensor) -> Tensor:
        return distance(lambda x: functional_call(student, dict(zip(names, weights)), x), teacher, images, 2)

    weights = [parameter.detach().clone().requires_grad_() for parameter in student.parameters()]
    # Below the distance to the nearest kink of the piecewise linear network.
    assert torch.autograd.gradcheck(of_weights, weights, eps=1e-7, atol=1e-5, fast_mode=True)
    gradients = torch.autograd.grad(of_weights(*weights), weights, allow_unused=True)
    moved = {name for name, gradient in zip(names, gradients) if gradient is not None and gradient.abs().max() > 1e-4}
    assert {"0.weight", "1.weight", "4.weight", "5.weight", "8.weight"} <= moved
    assert ("0.bias" in moved) == (activation is nn.Softplus)


def test_gradients_of_the_loss_itself() -> None:
    student, teacher = torch.randn(2, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: jacobian_loss(x, teacher), student.requires_grad_())


def test_as_many_top_classes_as_classes_are_the_exact_jacobian() -> None:
    net, images = network(0), random_images(4)
    classes = top_classes(net(images), CLASSES)
    _, rows = jacobians(net, images, classes, create_graph=False)
    _, exact = jacobians(net, images, all_classes(4), create_graph=False)
    assert (classes != all_classes(4)).any()
    torch.testing.assert_close(rows.gather(1, classes.argsort(1)[:, :, None].expand_as(rows)), exact)
    student = network(1)
    _, own = jacobians(student, images, all_classes(4), create_graph=False)
    torch.testing.assert_close(distance(student, net, images, CLASSES), jacobian_loss(own, exact))


def test_the_top_class_is_the_teachers_of_each_image() -> None:
    teacher, student, images = network(0), network(1), random_images(16)
    logits = teacher(images)
    # So that not one class is the top of all.
    logits = logits - logits.mean(0)
    classes = top_classes(logits, 1)
    assert classes.shape == (16, 1)
    assert len(set(classes.flatten().tolist())) > 1
    assert (classes[:, 0] != student(images).argmax(1)).any()
    for image, row in enumerate(logits.tolist()):
        assert classes[image, 0] == row.index(max(row))
    _, rows = jacobians(student, images, classes, create_graph=False)
    _, exact = jacobians(student, images, all_classes(16), create_graph=False)
    for image in range(16):
        torch.testing.assert_close(rows[image, 0], exact[image, classes[image, 0]])


@settings(max_examples=25, deadline=None)
@given(k=st.integers(1, CLASSES), seed=st.integers(0, 2**16))
def test_no_other_class_has_a_larger_logit_than_the_top_ones(k: int, seed: int) -> None:
    logits = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(seed))
    for row, classes in zip(logits.tolist(), top_classes(logits, k).tolist(), strict=True):
        assert sorted((row[c] for c in classes), reverse=True) == sorted(row, reverse=True)[:k]
        assert len(set(classes)) == k


@pytest.mark.parametrize("k", [-1, 0, CLASSES + 1])
def test_the_number_of_top_classes_is_in_1_to_classes(k: int) -> None:
    with pytest.raises(ValueError, match="top classes"):
        top_classes(torch.zeros(3, CLASSES), k)


def test_a_copy_of_the_teacher_has_no_loss_and_a_finite_gradient() -> None:
    teacher, images = network(0), random_images(4)
    student = copy.deepcopy(teacher)
    loss = distance(student, teacher, images, 3)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-20)
    for name, parameter in student.named_parameters():
        if name != "8.bias":
            assert parameter.grad is not None
            assert parameter.grad.abs().max() < 1e-10
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_images_meet_in_batch_norms_in_training_alone() -> None:
    images = random_images(4)
    others = torch.cat([images[:1], random_images(3, seed=9)])
    net = network(0)
    first, second = (jacobians(net, batch, all_classes(4), create_graph=False)[1][0] for batch in (images, others))
    torch.testing.assert_close(first, second)
    net.train()
    first, second = (jacobians(net, batch, all_classes(4), create_graph=False)[1][0] for batch in (images, others))
    assert (first - second).norm() > 0.01 * first.norm()


def test_jacobians_leave_no_gradients_and_need_none_outside() -> None:
    net, images = network(0).requires_grad_(False), random_images(2)
    expected = one_by_one(net, images, all_classes(2))
    with torch.no_grad():
        torch.testing.assert_close(jacobians(net, images, all_classes(2), create_graph=False)[1], expected)
    net.requires_grad_()
    jacobians(net, images, all_classes(2), create_graph=False)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_each_image_has_one_norm_and_only_directions_matter() -> None:
    student, teacher = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = jacobian_loss(student, teacher)
    scales = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(jacobian_loss(student * scales, teacher / scales), loss)
    rows = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)[:, None]
    assert (jacobian_loss(student * rows, teacher) - loss).abs() > 1e-3
    assert jacobian_loss(-teacher, teacher).item() == pytest.approx(4)
    ahead, aside = torch.eye(2, dtype=torch.float64)[:, None, None]
    assert jacobian_loss(ahead, aside).item() == pytest.approx(2)


def test_a_zero_jacobian_has_a_finite_gradient() -> None:
    student, teacher = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    student[1], teacher[2] = 0, 0
    student.requires_grad_()
    loss = jacobian_loss(student, teacher)
    loss.backward()
    # A zero Jacobian is at distance 1 from any direction.
    assert loss.item() == pytest.approx((by_definition(student[:1].detach(), teacher[:1]) + 2) / 3, rel=1e-5)
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 10


def test_a_student_whose_units_are_all_dead_has_finite_gradients() -> None:
    student, images = network(1), random_images(3)
    for layer in student:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.constant_(layer.bias, -1e3)
    loss = distance(student, network(2), images, 2)
    loss.backward()
    assert loss.item() == pytest.approx(1)
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in student.parameters())


def test_autocast_does_not_lower_the_losss_precision() -> None:
    student, teacher = torch.randn(2, 6, 3, 40, generator=torch.Generator().manual_seed(0))
    net = network(1).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = jacobian_loss(student, teacher)
        rounded = jacobian_loss(student.bfloat16(), teacher.bfloat16())
        _, rows = jacobians(net, random_images(2).float(), all_classes(2), create_graph=True)
        loss = jacobian_loss(rows, rows.detach().flip(0))
    assert inside.dtype == rounded.dtype == rows.dtype == loss.dtype == torch.float32
    assert inside.item() == pytest.approx(by_definition(student, teacher), rel=1e-5)
    assert rounded.item() == pytest.approx(by_definition(student.bfloat16(), teacher.bfloat16()), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in net.parameters())
