"""Counter-based noise: every random bit is a pure function of (seed, prefix of the composition, image id, position), on every device.

Integer arithmetic alone, so CPU and GPU give the same bits, in any order, batch or thread. Two hashes are used: the finaliser of splitmix64
(Steele, Lea and Flood, OOPSLA 2014) for the two words of an image, and a 32-bit two-multiplication avalanche with the constants of
lowbias32 (Wellons, "Prospecting for Hash Functions", 2018) for the positions.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from data.keys import derive


class Noise:
    """The noise of one step of a composition on a batch.

    `prefix` is the composition up to and including this step, `ids` (N,) are the images' numbers. Severities are not part of the key, so that
    severities of a corruption share their draws. Noise of different seeds, prefixes, images and positions is independent.
    """

    def __init__(self, seed: int, prefix: Sequence[str], ids: Tensor | Sequence[int]):
        self.seed, self.prefix, self.ids = seed, prefix, ids

    def bits(self, shape: Sequence[int], device: torch.device | str) -> Tensor:
        """Uniform int32 of shape (N, *shape); the position is the row-major index in `shape`, such as (C, H, W)."""
        key = _key(self.seed, tuple(str(name) for name in self.prefix))
        words = _words(key, torch.as_tensor(self.ids, dtype=torch.int64).to(device))
        x = _counter(torch.Size(shape).numel(), torch.device(device)) + words[:, :1]
        shifted = torch.empty_like(x)
        _xor_shift(x, 16, shifted)
        x *= 0x7FEB352D
        _xor_shift(x, 15, shifted)
        x += words[:, 1:]
        x *= _signed(0x846CA68B, 32)
        _xor_shift(x, 16, shifted)
        return x.view(-1, *shape)


@functools.lru_cache(maxsize=4096)
def _key(seed: int, prefix: tuple[str, ...]) -> int:
    return derive("noise", seed, prefix)


@functools.lru_cache(maxsize=64)
def _counter(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=torch.int32, device=device)


def _signed(value: int, bits: int) -> int:
    """The two's complement reading of an unsigned word."""
    return value - (1 << bits) if value >> (bits - 1) else value


def _xor_shift(x: Tensor, by: int, buffer: Tensor) -> None:
    """x ^= x >> by, in place and logical: torch shifts signed words arithmetically, so the copied sign bits are masked away."""
    torch.bitwise_right_shift(x, by, out=buffer)
    buffer &= (1 << (8 * x.element_size() - by)) - 1
    x ^= buffer


def _words(key: int, ids: Tensor) -> Tensor:
    """Two int32 words (N, 2) for every image: output number `id` of the splitmix64 sequence that starts at `key`."""
    z = ids * _signed(0x9E3779B97F4A7C15, 64) + key
    buffer = torch.empty_like(z)
    _xor_shift(z, 30, buffer)
    z *= _signed(0xBF58476D1CE4E5B9, 64)
    _xor_shift(z, 27, buffer)
    z *= _signed(0x94D049BB133111EB, 64)
    _xor_shift(z, 31, buffer)
    return z.view(torch.int32).view(-1, 2)
