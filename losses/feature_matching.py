"""Feature matching: a student's features shall point where its teacher's do."""

import torch
from torch import Tensor, nn


class FeatureMatching(nn.Module):
    """The mean over images of || fs / |fs| - ft / |ft| ||^2, in 0..4; a trained linear layer takes the student's features to the teacher's size where they differ.

    After FitNets (Romero et al., arXiv 1412.6550), on normalised features.
    """

    def __init__(self, student_units: int, teacher_units: int):
        super().__init__()
        self.regressor = nn.Identity() if student_units == teacher_units else nn.Linear(student_units, teacher_units)

    def forward(self, student_nu: Tensor, teacher_nu: Tensor) -> Tensor:
        """A scalar, of features (N, ...), which are flattened; a zero vector stays zero. In float32, under autocast too, or in float64."""
        with torch.autocast(student_nu.device.type, enabled=False):
            student_nu = student_nu.flatten(1).to(torch.promote_types(student_nu.dtype, torch.float32))
            student, teacher = unit_rows(self.regressor(student_nu)), unit_rows(teacher_nu.flatten(1))
            return (student - teacher).square().sum(1).mean()


def unit_rows(rows_nd: Tensor) -> Tensor:
    """Rows (N, D) divided by their L2 norms, in float32 or float64; zero rows stay zero, with a finite gradient."""
    rows_nd = rows_nd.to(torch.promote_types(rows_nd.dtype, torch.float32))
    square = rows_nd.square().sum(1, keepdim=True)
    # The root of 1 in place of 0, since the root's gradient at 0 is infinite.
    return rows_nd / torch.where(square > 0, square, 1).sqrt()
