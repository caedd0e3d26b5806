"""Mean and covariance of features that stream by, in one pass and in double precision."""

from typing import Any

import torch
from torch import Tensor


class Scratch:
    """Memory that is used again and again: a large tensor that is new has to be mapped and cleared first."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None

    def like(self, tensor: Tensor) -> Tensor:
        """Room for a contiguous tensor of that shape and type, until the next call."""
        memory = self.memory
        if memory is None or memory.numel() < tensor.numel() or (memory.dtype, memory.device) != (tensor.dtype, tensor.device):
            memory = self.memory = torch.empty(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
        return memory[: tensor.numel()].view(tensor.shape)


class Covariance:
    """Sums over rows of C features, from which mean and covariance follow.

    Rows are shifted by the mean of the first ones, so that products in single precision lose nothing of a covariance that is small beside the
    mean; the sums are float64. What is summed does not depend on how the rows are cut into batches, but for rounding.
    """

    def __init__(self, scratch: Scratch | None = None) -> None:
        self.scratch = scratch or Scratch()
        self.n = 0
        self.shift_c: Tensor | None = None
        self.sum_c: Tensor | None = None
        self.products_cc: Tensor | None = None

    @torch.no_grad()
    def add(self, features: Tensor) -> None:
        """Takes in rows (n, C), or maps (N, C, H, W) whose every position is a row, of any floating type."""
        if not features.numel():
            return
        features = features if features.dtype == torch.float64 else features.float()
        # Features first: of a map what lies together stays together.
        columns_cn = features.transpose(0, 1)
        if self.shift_c is None or self.sum_c is None or self.products_cc is None:
            self.shift_c = columns_cn.flatten(1).mean(1)
            self.sum_c = torch.zeros_like(self.shift_c, dtype=torch.float64)
            self.products_cc = self.sum_c.new_zeros(len(self.sum_c), len(self.sum_c))
        shifted_cn = self.scratch.like(columns_cn)
        torch.sub(columns_cn, self.shift_c.view(-1, *[1] * (features.ndim - 1)), out=shifted_cn)
        shifted_cn = shifted_cn.flatten(1)
        # Single sums are short, and of what is around 0.
        self.sum_c += shifted_cn.sum(1)
        self.products_cc += shifted_cn @ shifted_cn.T
        self.n += shifted_cn.shape[1]

    @property
    def dimension(self) -> int:
        """C."""
        return 0 if self.sum_c is None else len(self.sum_c)

    def mean(self) -> Tensor:
        """The mean (C,), float64."""
        assert self.shift_c is not None
        assert self.sum_c is not None
        return self.shift_c.double() + self.sum_c / self.n

    def matrix(self) -> Tensor:
        """The covariance (C, C), float64, divided by n."""
        assert self.sum_c is not None
        assert self.products_cc is not None
        mean_c = self.sum_c / self.n
        return self.products_cc / self.n - torch.outer(mean_c, mean_c)

    def eigenvalues(self) -> Tensor:
        """The eigenvalues (C,) of the covariance in descending order, none below 0; float64 on the CPU, where the solver is the more robust one.

        NaN where features were not finite, or too large for products in single precision: a training that diverges is for the loop to name.
        """
        matrix_cc = self.matrix().cpu()
        if not matrix_cc.isfinite().all():
            return matrix_cc.new_full((len(matrix_cc),), torch.nan)
        return torch.linalg.eigvalsh(matrix_cc).clamp(min=0).flip(0)

    def eigenbasis(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues as above, and their eigenvectors as columns (C, C)."""
        values, vectors = torch.linalg.eigh(self.matrix().cpu())
        return values.clamp(min=0).flip(0), vectors.flip(1)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `restore` goes on."""
        return {"n": self.n, "shift": self.shift_c, "sum": self.sum_c, "products": self.products_cc}

    @classmethod
    def restore(cls, state: dict[str, Any], scratch: Scratch | None = None) -> "Covariance":
        found = cls(scratch)
        found.n, found.shift_c, found.sum_c, found.products_cc = state["n"], state["shift"], state["sum"], state["products"]
        return found


def delve_dimension(shares_k: Tensor, delta: float) -> int:
    """How many shares stay below delta, at least 1: what delve 0.1 tells as saturation, but that it tells 0 where the first eigenvector explains delta.

    Its source means to add one where these leave out more than 0.02, but cuts columns that are cut already; `delve_rank` is what it meant.
    """
    return max(1, int((shares_k < delta).sum()))


def delve_rank(shares_k: Tensor, delta: float) -> int:
    """How many shares stay below delta, at least 1, and one more where those leave out more than 0.02: the directions that delve's projection layers keep."""
    below = int((shares_k < delta).sum())
    if below == 0:
        return 1
    return below + 1 if delta - float(shares_k[below - 1]) > 0.02 else below


def standard_dimension(shares_k: Tensor, delta: float) -> int:
    """The least number of eigenvectors that explain a share of at least delta."""
    return min(int((shares_k < delta).sum()) + 1, len(shares_k))


RULES = {"delve": delve_dimension, "delve rank": delve_rank, "standard": standard_dimension}


def intrinsic_dimension(eigenvalues_c: Tensor, delta: float, rule: str = "delve") -> int:
    """The number of eigenvectors that explain a share delta of the variance, 1..C, by one of RULES; 1 where there is no variance.

    `eigenvalues_c` descend and are not negative. From delta 1 on it is C.
    """
    if delta >= 1:
        return len(eigenvalues_c)
    total = eigenvalues_c.sum()
    if total <= 0:
        return 1
    return RULES[rule](eigenvalues_c.cumsum(0) / total, delta)
