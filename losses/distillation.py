"""Distillation by logits: the tempered Kullback-Leibler divergence, and what tells how close a student's outputs are to its teacher's."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax


def distillation_loss(student_nk: Tensor, teacher_nk: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(s / T)), the mean over N images, a scalar >= 0 (Hinton, Vinyals and Dean, arXiv 1503.02531).

    The factor keeps the size of gradients nearly independent of T. Logits are (N, classes), float32 (also under autocast) or float64; the teacher's
    should carry no graph. Raises ValueError unless T > 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is positive, not {temperature}")
    return temperature**2 * kl_n(teacher_nk, student_nk, temperature).mean()


def kl_n(teacher_nk: Tensor, student_nk: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) in nats of the tempered class probabilities of each image, (N,), from logits (N, classes)."""
    with torch.autocast(student_nk.device.type, enabled=False):
        kind = torch.promote_types(student_nk.dtype, torch.float32)
        teacher = log_softmax(teacher_nk.to(kind) / temperature, dim=1)
        student = log_softmax(student_nk.to(kind) / temperature, dim=1)
        return (teacher.exp() * (teacher - student)).sum(1)


def agreement_n(teacher_nk: Tensor, student_nk: Tensor) -> Tensor:
    """Whether both have the same top class, bool (N,), from logits (N, classes)."""
    return teacher_nk.argmax(1) == student_nk.argmax(1)
