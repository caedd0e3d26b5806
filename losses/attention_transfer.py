"""Attention transfer (Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928): a student's maps shall be strong where its teacher's are."""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from losses.feature_matching import unit_rows


def attention_transfer_loss(student_nchw: Tensor, teacher_nchw: Tensor) -> Tensor:
    """The mean squared difference of both attention maps, over images and places, a scalar >= 0.

    An attention map is the mean over channels of squared activations, flattened and divided by its L2 norm (the published code's form). Maps
    (N, C, H, W) may differ in channels; where their sides differ, the larger one's attention is average-pooled to the smaller's size before.
    In float32, under autocast too, or in float64. A map of zeros stays zero.
    """
    kind = torch.promote_types(student_nchw.dtype, torch.float32)
    student, teacher = student_nchw.to(kind).square().mean(1), teacher_nchw.to(kind).square().mean(1)
    height, width = (min(own, other) for own, other in zip(student.shape[1:], teacher.shape[1:]))
    rows = [unit_rows(adaptive_avg_pool2d(map_nhw, (height, width)).flatten(1)) for map_nhw in (student, teacher)]
    return (rows[0] - rows[1]).square().mean()
