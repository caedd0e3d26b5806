import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from data.keys import derive, evaluation_seed
from data.noise import Noise

# Every test below is of fixed draws; ALPHA is the chance that it would refuse a good generator.
ALPHA = 1e-6


def splitmix64(state, count):
    """Python integers, from the published C: the sequence that starts at `state`."""
    mask = 2**64 - 1
    for _ in range(count):
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)
        state = (state + 0x9E3779B97F4A7C15) & mask


def reference_bits(seed, prefix, image, position):
    """The definition in Python integers."""
    *_, word = splitmix64(derive("noise", seed, prefix), image + 1)
    low, high = word & 0xFFFFFFFF, word >> 32
    mask = 2**32 - 1
    x = (position + low) & mask
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & mask
    x = ((x ^ (x >> 15)) + high) & mask
    x = (x * 0x846CA68B) & mask
    x ^= x >> 16
    return x - 2**32 if x >> 31 else x


def test_derive_is_stable_for_ever():
    assert derive("order", 0, 1) == 5946387489172317919
    assert derive("noise", 2778, ["Contrast", "ImpulseNoise"]) == 1723899039597012847
    assert evaluation_seed("MNIST", "test") == 8775073125843437873
    assert derive("a", ("b", 1)) == derive("a", ["b", 1])


@given(
    st.lists(st.one_of(st.text(), st.integers(), st.booleans()), max_size=4),
    st.lists(st.one_of(st.text(), st.integers(), st.booleans()), max_size=4),
)
def test_derive_tells_different_parts_apart(first, second):
    assert 0 <= derive(*first) < 2**63
    assert (derive(*first) == derive(*second)) == (repr(first) == repr(second))


def test_derive_does_not_depend_on_the_process():
    code = "from data.keys import derive; print(derive('x', 3, ['y']))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(output) == derive("x", 3, ["y"])


def test_derive_refuses_what_has_no_one_form():
    with pytest.raises(TypeError):
        derive({1, 2})
    with pytest.raises(ValueError, match="not JSON compliant"):
        derive(math.nan)


def test_bits_are_the_published_hashes():
    bits = Noise(7, ("Invert", "ImpulseNoise"), [0, 1, 59]).bits((2, 3, 3), "cpu")
    assert bits.dtype == torch.int32
    expected = [[reference_bits(7, ["Invert", "ImpulseNoise"], image, position) for position in range(18)] for image in (0, 1, 59)]
    assert bits.flatten(1).tolist() == expected


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30, unique=True),
    st.integers(0, 2**63 - 1),
    st.randoms(use_true_random=False),
)
def test_an_image_has_the_same_noise_in_any_batch_and_order(ids, seed, shuffler: random.Random):
    whole = dict(zip(ids, Noise(seed, ("ImpulseNoise",), ids).bits((1, 5, 5), "cpu")))
    shuffler.shuffle(ids)
    cut = shuffler.randint(0, len(ids))
    for part in (ids[:cut], ids[cut:]):
        for image, bits in zip(part, Noise(seed, ("ImpulseNoise",), torch.tensor(part, dtype=torch.int64)).bits((1, 5, 5), "cpu")):
            assert torch.equal(bits, whole[image])


def test_every_bit_of_the_word_is_fair():
    bits = Noise(1, ("ImpulseNoise",), range(500)).bits((3, 32, 32), "cpu").numpy().view(np.uint32)
    for place in range(32):
        ones = int(((bits >> np.uint32(place)) & 1).sum())
        assert stats.binomtest(ones, bits.size, 0.5).pvalue > ALPHA / 32


@pytest.mark.parametrize("shift", [24, 8, 0])
def test_values_are_uniform(shift):
    bits = Noise(2, ("ImpulseNoise",), range(400)).bits((3, 32, 32), "cpu").numpy().view(np.uint32)
    counts = np.bincount(((bits >> np.uint32(shift)) & 255).ravel(), minlength=256)
    assert stats.chisquare(counts).pvalue > ALPHA


def neighbours(kind):
    """Two equally shaped arrays of draws whose matching elements must be independent."""
    ids = np.arange(300)
    draw = lambda seed=3, prefix=("Invert", "ImpulseNoise"), images=ids: Noise(seed, prefix, images).bits((3, 28, 28), "cpu").numpy()  # noqa: E731
    here = draw()
    match kind:
        case "channels":
            return here[:, 0], here[:, 2]
        case "next pixels":
            return here[..., :-1], here[..., 1:]
        case "rows":
            return here[:, :, :-1], here[:, :, 1:]
        case "next images":
            return here[:-1], here[1:]
        case "images far apart":
            return here, draw(images=ids + 2**32)
        case "seeds":
            return here, draw(seed=4)
        case "steps":
            return here, draw(prefix=("Invert", "ImpulseNoise", "Swirl"))
        case "orders":
            return here, draw(prefix=("ImpulseNoise",))


@pytest.mark.parametrize("kind", ["channels", "next pixels", "rows", "next images", "images far apart", "seeds", "steps", "orders"])
def test_independence(kind):
    first, second = neighbours(kind)
    z = stats.pearsonr(first.ravel().astype(float), second.ravel().astype(float)).statistic * math.sqrt(first.size)
    assert 2 * stats.norm.sf(abs(z)) > ALPHA
    for shift in (28, 0):
        pair = ((first.view(np.uint32) >> shift & 15) * 16 + (second.view(np.uint32) >> shift & 15)).ravel()
        assert stats.chi2_contingency(np.bincount(pair, minlength=256).reshape(16, 16)).pvalue > ALPHA


def test_images_do_not_repeat_each_other():
    bits = Noise(5, ("ImpulseNoise",), range(20_000)).bits((1, 4, 4), "cpu").numpy().reshape(20_000, 16)
    assert len(np.unique(bits, axis=0)) == 20_000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same_bits():
    noise = Noise(6, ("ImpulseNoise",), range(100))
    assert torch.equal(noise.bits((3, 32, 32), "cuda").cpu(), noise.bits((3, 32, 32), "cpu"))
