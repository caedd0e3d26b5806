"""Contrastive distillation with the negatives of the batch: trained embeddings of both networks agree on which image they see."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from losses.feature_matching import unit_rows


class Embeddings(nn.Module):
    """Trained linear embeddings of a student's and a teacher's features, divided by their L2 norms (Tian, Krishnan and Isola, arXiv 1910.10699)."""

    def __init__(self, student_units: int, teacher_units: int, dim: int = 128):
        super().__init__()
        self.student, self.teacher = nn.Linear(student_units, dim), nn.Linear(teacher_units, dim)

    def forward(self, student_nu: Tensor, teacher_nu: Tensor) -> tuple[Tensor, Tensor]:
        """Both as (N, dim), of features (N, ...), which are flattened; in the layers' own precision, under autocast too."""
        with torch.autocast(student_nu.device.type, enabled=False):
            kind = self.student.weight.dtype
            student_ne, teacher_ne = self.student(student_nu.flatten(1).to(kind)), self.teacher(teacher_nu.flatten(1).to(kind))
            return unit_rows(student_ne), unit_rows(teacher_ne)


def contrastive_distillation_loss(student_ne: Tensor, teacher_ne: Tensor, temperature: float) -> Tensor:
    """InfoNCE of both networks' embeddings (N, dim) of the same N images, a scalar >= 0 (van den Oord et al., arXiv 1807.03748).

    With s the dot product divided by the temperature, image i contributes -log softmax_j s(student i, teacher j) at j = i, and the same with the
    networks exchanged; the loss is the mean of all 2 N of them. The positive is the same image; labels play no role. Raises ValueError unless
    temperature > 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is positive, not {temperature}")
    with torch.autocast(student_ne.device.type, enabled=False):
        kind = torch.promote_types(student_ne.dtype, torch.float32)
        similarity_nn = student_ne.to(kind) @ teacher_ne.to(kind).T / temperature
        same = torch.arange(len(similarity_nn), device=similarity_nn.device)
        return (cross_entropy(similarity_nn, same) + cross_entropy(similarity_nn.T, same)) / 2
