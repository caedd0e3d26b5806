"""Polynomials (Hod et al., arXiv 2110.08058): points of two features, and the functions of them that a network is to compute, every sum of some of nine monomials."""

import numpy as np
from numpy.typing import NDArray

from data.keys import derive

# The exponents of both features in the monomials.
POWERS = [(a, b) for a in range(3) for b in range(3)]
# Whether monomial m is in sum s: the bit m of s.
IN_SUM = (np.arange(2 ** len(POWERS))[None, :] >> np.arange(len(POWERS))[:, None]) & 1


def points(split: str, count: int) -> NDArray[np.float32]:
    """So many points (N, 3, 1, 1) of a split, the same on every machine: two standard normal features, and a third that is 0, since networks see three channels."""
    draw = np.random.default_rng(derive("polynomials", split))
    found = np.zeros((count, 3, 1, 1), np.float32)
    found[:, :2, 0, 0] = draw.standard_normal((count, 2))
    return found
