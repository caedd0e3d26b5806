"""Contrastive representation distillation with memory banks (CRD; Tian, Krishnan and Isola, ICLR 2020, arXiv 1910.10699)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from losses.embedded_contrastive import Embeddings

# Keeps logarithms finite, as in the published code.
EPSILON = 1e-7


class CRD(nn.Module):
    """Noise-contrastive estimation over all training images, whose embeddings of both networks are kept in two banks.

    A network's embedding of an image is compared with the other network's bank at that image (the positive) and at K images drawn uniformly, with
    replacement (the negatives). With P = exp(dot / t) / Z, Z estimated once so that P of the first batch has mean 1 / n_images, and c = K / n_images,

        -( log[ P+ / (P+ + c) ] + sum over k of log[ c / (Pk + c) ] )

    is averaged over the batch, and the loss is the sum of both sides. After each training step the banks move to the new embeddings:
    momentum * old + (1 - momentum) * new, divided by its norm. Banks and Z are buffers, which in eval mode stay as they are; negatives come from
    torch's global generator. K is at most n_images. Raises ValueError unless temperature > 0, 0 <= momentum <= 1 and K and n_images are at least 1.
    """

    def __init__(
        self,
        student_units: int,
        teacher_units: int,
        n_images: int,
        dim: int = 128,
        negatives: int = 16_384,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is positive, not {temperature}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum is in 0..1, not {momentum}")
        if min(negatives, n_images) < 1:
            raise ValueError(f"negatives and images are at least 1, not {negatives} and {n_images}")
        self.embeddings = Embeddings(student_units, teacher_units, dim)
        self.negatives, self.temperature, self.momentum = min(negatives, n_images), temperature, momentum
        # Uniform in a cube, as published; rows are of length 1 after their first update.
        bound = (dim / 3) ** -0.5
        self.student_bank_me: Tensor
        self.teacher_bank_me: Tensor
        self.log_z_2: Tensor
        self.register_buffer("student_bank_me", (2 * torch.rand(n_images, dim) - 1) * bound)
        self.register_buffer("teacher_bank_me", (2 * torch.rand(n_images, dim) - 1) * bound)
        # Of the student's and the teacher's side; NaN until the first batch. Logarithms, since at low temperatures Z is more than float32 holds.
        self.register_buffer("log_z_2", torch.full((2,), torch.nan))

    def forward(self, student_nu: Tensor, teacher_nu: Tensor, index_n: Tensor) -> Tensor:
        """The loss of features (N, ...) of the images `index` (N,) in 0..n_images-1; in training the banks are updated."""
        drawn_nk = torch.randint(len(self.student_bank_me), (len(index_n), self.negatives)).to(index_n.device)
        return self.against(student_nu, teacher_nu, index_n, drawn_nk)

    def against(self, student_nu: Tensor, teacher_nu: Tensor, index_n: Tensor, negatives_nk: Tensor) -> Tensor:
        """The loss with given negatives (N, K)."""
        with torch.autocast(index_n.device.type, enabled=False):
            student_ne, teacher_ne = self.embeddings(student_nu, teacher_nu)
            rows_nj = torch.cat([index_n[:, None], negatives_nk], dim=1)
            loss = self._side(0, student_ne, self.teacher_bank_me, rows_nj) + self._side(1, teacher_ne, self.student_bank_me, rows_nj)
            if self.training:
                self._remember(self.student_bank_me, student_ne, index_n)
                self._remember(self.teacher_bank_me, teacher_ne, index_n)
        return loss

    def _side(self, side: int, own_ne: Tensor, bank_me: Tensor, rows_nj: Tensor) -> Tensor:
        n_images = len(bank_me)
        # The negatives of a batch are many rows of the bank: as products with all of it where that is less.
        if rows_nj.numel() > n_images:
            # A copy, since the banks move on before the gradients are computed.
            dots_nj = (own_ne @ bank_me.clone().T).gather(1, rows_nj)
        else:
            dots_nj = torch.einsum("ne,nje->nj", own_ne, bank_me[rows_nj])
        scores_nj = dots_nj / self.temperature
        with torch.no_grad():
            first = scores_nj.flatten().logsumexp(0) + math.log(n_images / rows_nj.numel())
            log_z = torch.where(self.log_z_2[side].isnan(), first, self.log_z_2[side])
            if self.training:
                self.log_z_2[side] = log_z
        noise = (rows_nj.shape[1] - 1) / n_images
        # log P - log(c + epsilon): with it, P / (P + c + epsilon) is a sigmoid, and so is 1 minus that.
        odds_nj = scores_nj - log_z - math.log(noise + EPSILON)
        positive = logsigmoid(odds_nj[:, 0])
        negative = (logsigmoid(-odds_nj[:, 1:]) + math.log(noise / (noise + EPSILON))).sum(1)
        return -(positive + negative).mean()

    @torch.no_grad()
    def _remember(self, bank_me: Tensor, own_ne: Tensor, index_n: Tensor) -> None:
        bank_me[index_n] = normalize(self.momentum * bank_me[index_n] + (1 - self.momentum) * own_ne.detach(), dim=1)
