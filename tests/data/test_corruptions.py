import itertools

import numpy as np
import PIL.Image
import pytest
import skimage.filters
import skimage.transform
import skimage.util
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import info_dicts
from data import corruptions
from data.compositions import ELEMENTALS, all_compositions, compositions, parse
from data.corruptions import apply_step, corrupt, quantize, stream, to_uint8
from data.noise import Noise
from data.transforms import Corrupt, tv_tensors
from errors import InputError

# The chance that a statistical test here would refuse a correct implementation.
ALPHA = 1e-6
MENU = {str(choice): choice for choice in info_dicts.CORRUPTIONS.values()}
CASES = [
    (name, severity) for name in ELEMENTALS if name != "ImpulseNoise" for severity in range(1, len(MENU[name].severities) + 1) or [None]
]
SHAPES = [(1, 28, 28), (3, 32, 32), (1, 27, 27), (3, 33, 33), (2, 5, 5), (1, 2, 2), (3, 1, 1)]


def some_images(shape, n=8, seed=0):
    """Noise, flat and smooth images in turn, so that edges, constants and the extremes 0 and 255 all occur."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (n, *shape))
    ramp = np.linspace(0, 255, shape[1] * shape[2]).reshape(shape[1:])
    images[1], images[2], images[3], images[4] = 0, 255, ramp, 255 * (images[4] > 127)
    return torch.from_numpy(images.astype(np.uint8))


def by_scikit_image(image_chw, name, severity):
    """The published operation on values / 255 in float64; the result in 0..255, not cut."""
    image = image_chw.numpy().transpose(1, 2, 0) / 255
    parameter = MENU[name].severities[severity - 1] if severity else None
    if name == "Contrast":
        mean = image.mean((0, 1), keepdims=True)
        result = (image - mean) * parameter + mean
    elif name == "GaussianBlur":
        result = skimage.filters.gaussian(image, parameter, channel_axis=2, mode="nearest", truncate=4)
    elif name == "Swirl":
        result = skimage.transform.swirl(image, strength=parameter, radius=np.sqrt(2) * len(image) / 2, rotation=0, order=1, mode="reflect")
    elif name == "Rotate90":
        result = skimage.transform.rotate(image, 90, order=1, mode="constant")
    else:
        result = 1 - image
    return np.clip(result, 0, 1).transpose(2, 0, 1) * 255


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "severity"), CASES)
def test_equal_to_scikit_image_within_one_grey_level(name, severity, shape):
    images = some_images(shape)
    ours = corrupt(images, name, ids=range(len(images)), seed=0, severities={name: severity} if severity else None)
    theirs = np.stack([by_scikit_image(image, name, severity) for image in images])
    assert ours.dtype == torch.float32
    assert np.abs(ours.numpy() - theirs).max() < 2e-4
    # Values whose float64 form misses a whole number by rounding are not a difference of the operation.
    levels = np.floor(theirs + 1e-9)
    differences = np.abs(to_uint8(ours).numpy() - levels)
    assert differences.max() <= 1
    assert not differences[np.abs(theirs - theirs.round()) > 2e-4].any()


def test_few_grey_levels_differ_from_scikit_image():
    """The float32 sums fall on the other side of a whole number for at most 2 in 10,000 values of random images."""
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (40, 3, 32, 32)).astype(np.uint8))
    for name, severity in CASES:
        theirs = np.stack([by_scikit_image(image, name, severity) for image in images])
        ours = to_uint8(corrupt(images, name, ids=range(40), seed=0, severities={name: severity} if severity else None)).numpy()
        assert np.mean(ours != np.floor(theirs + 1e-9)) < 2e-4, (name, severity)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lossless_corruptions_are_exact(shape):
    images = some_images(shape)
    assert torch.equal(corrupt(images, "Rotate90", ids=range(8), seed=0), images.rot90(1, (2, 3)).float())
    assert torch.equal(corrupt(images, "Invert", ids=range(8), seed=0), (255 - images.int()).float())
    assert torch.equal(corrupt(images, "Identity", ids=range(8), seed=0), images.float())


def test_published_defaults():
    expected = {
        "Contrast": 0.3,
        "GaussianBlur": 2.0,
        "ImpulseNoise": 0.27,
        "Swirl": 3.0,
        "Invert": None,
        "Rotate90": None,
        "Identity": None,
    }
    assert {name: corruptions.parameter_of(name) for name in MENU} == expected
    images = some_images((3, 16, 16))
    for name in ("Contrast", "GaussianBlur", "ImpulseNoise", "Swirl"):
        default = corrupt(images, name, ids=range(8), seed=0)
        same = [torch.equal(default, corrupt(images, name, ids=range(8), seed=0, severities={name: severity})) for severity in range(1, 6)]
        assert same == [severity == MENU[name].default for severity in range(1, 6)]


@pytest.mark.parametrize("severity", range(1, 6))
def test_rate_and_share_of_impulse_noise(severity):
    amount = MENU["ImpulseNoise"].severities[severity - 1]
    images = torch.full((600, 3, 28, 28), 128, dtype=torch.uint8)
    noisy = corrupt(images, "IM", ids=range(600), seed=severity, severities={"IM": severity})
    salt, pepper = (int((noisy == level).sum()) for level in (255, 0))
    assert salt + pepper + int((noisy == 128).sum()) == images.numel()
    assert stats.binomtest(salt + pepper, images.numel(), amount).pvalue > ALPHA
    assert stats.binomtest(salt, salt + pepper, 0.5).pvalue > ALPHA
    # The published operation itself has this law: the same test must accept it.
    reference = skimage.util.random_noise(images.numpy()[:100] / 255, "s&p", amount=amount, rng=severity)
    assert stats.binomtest(int(np.isin(reference, (0, 1)).sum()), reference.size, amount).pvalue > ALPHA


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_hits_of_impulse_noise_are_independent_along_every_axis(axis):
    hits = (corrupt(torch.full((300, 3, 28, 28), 128.0), "IM", ids=range(300), seed=1) != 128).numpy()
    first, second = hits.take(range(hits.shape[axis] - 1), axis), hits.take(range(1, hits.shape[axis]), axis)
    table = np.bincount(2 * first.ravel() + second.ravel(), minlength=4).reshape(2, 2)
    assert stats.chi2_contingency(table, correction=False).pvalue > ALPHA


def test_hits_are_independent_of_pixels_steps_and_seeds():
    images = torch.full((300, 1, 28, 28), 128.0)
    ids = range(300)
    hits = [
        corrupt(images, "IM", ids=ids, seed=1) != 128,
        corrupt(images, "IM", ids=ids, seed=2) != 128,
        apply_step(images, ("Invert", "ImpulseNoise"), ids=ids, seed=1) != 128,
        apply_step(images, ("Swirl", "ImpulseNoise"), ids=ids, seed=1) != 128,
    ]
    for first, second in itertools.combinations(hits, 2):
        table = torch.bincount(2 * first.flatten() + second.flatten(), minlength=4).reshape(2, 2).numpy()
        assert stats.chi2_contingency(table, correction=False).pvalue > ALPHA
    other = torch.randint(0, 256, (300, 1, 28, 28), generator=torch.Generator().manual_seed(0)).float()
    salted = corrupt(other, "IM", ids=ids, seed=1)
    assert torch.equal(salted[hits[0]] % 255, torch.zeros(int(hits[0].sum())))
    assert torch.equal(salted[~hits[0]], other[~hits[0]])


def test_higher_severities_share_the_draws_of_lower_ones():
    images = torch.full((50, 1, 28, 28), 128.0)
    noisy = [corrupt(images, "IM", ids=range(50), seed=1, severities={"IM": severity}) for severity in range(1, 6)]
    for lower, higher in itertools.pairwise(noisy):
        assert torch.equal(higher[lower != 128], lower[lower != 128])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)], ids=str)
@pytest.mark.parametrize("composition", [*ELEMENTALS, "GB-SW-CO-IM-R90-IN", "IM-CO-GB-SW"])
def test_an_image_is_corrupted_alike_in_any_batch(composition, shape, monkeypatch):
    """To the last bit at the sizes of the data sets, also where a batch is taken in pieces."""
    images, ids = some_images(shape, n=400), torch.arange(400) * 3
    whole = corrupt(images, composition, ids=ids, seed=5)
    monkeypatch.setattr(corruptions, "PIECE", 100_000)
    assert torch.equal(corrupt(images, composition, ids=ids, seed=5), whole)
    for size in (1, 2, 7, 36, 256):
        parts = [corrupt(images[i : i + size], composition, ids=ids[i : i + size], seed=5) for i in range(0, 400, size)]
        assert torch.equal(torch.cat(parts), whole)


@settings(deadline=None, max_examples=60)
@given(
    st.permutations(range(12)),
    st.integers(0, 12),
    st.integers(1, 3),
    st.integers(1, 9),
    st.sampled_from(all_compositions()),
    st.integers(0, 2**63 - 1),
)
def test_batches_and_order_never_change_grey_levels_or_noise(order, cut, channels, size, composition, seed):
    images = some_images((channels, size, size), n=12, seed=seed)
    whole = corrupt(images, composition, ids=range(12), seed=seed)
    for part in (order[:cut], order[cut:]):
        chosen = corrupt(images[part], composition, ids=part, seed=seed)
        assert torch.allclose(chosen, whole[part], atol=1e-3, rtol=0)
    assert torch.isfinite(whole).all()
    assert 0 <= whole.min() <= whole.max() <= 255


@pytest.mark.parametrize("composition", ["CO-GB-IM", "IM-R90-GB-IN-SW-CO", "SW-IM"])
def test_a_composition_is_its_steps_in_order_without_cuts_between(composition):
    images, ids, names = some_images((3, 20, 20)), torch.arange(8) + 100, parse(composition)
    step = images.float()
    for length in range(1, len(names) + 1):
        step = apply_step(step, names[:length], ids=ids, seed=9)
        assert torch.equal(step, corrupt(images, names[:length], ids=ids, seed=9))
    assert not torch.equal(step, corrupt(images, names[::-1], ids=ids, seed=9))
    assert not torch.equal(step, step.round())


def test_identity_adds_nothing_to_the_key_of_the_noise():
    images = some_images((1, 28, 28))
    clean_first = apply_step(images.float(), ("Identity", "ImpulseNoise"), ids=range(8), seed=1)
    assert torch.equal(clean_first, corrupt(images, "IM", ids=range(8), seed=1))
    assert torch.equal(corrupt(images, "ID-IM-ID", ids=range(8), seed=1), clean_first)


@pytest.mark.parametrize("name", list(MENU))
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_the_input_is_left_as_it_is(name, dtype):
    images = some_images((3, 12, 12)).to(dtype)
    before = images.clone()
    result = corrupt(images, name, ids=range(8), seed=0)
    assert result.dtype == torch.float32
    assert result.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()
    result.fill_(7)
    assert torch.equal(images, before)


def test_memory_format_and_autocast_change_nothing():
    images = some_images((3, 28, 28)).float()
    expected = corrupt(images, "GB-SW-IM-CO-R90-IN", ids=range(8), seed=0)
    strided = images.to(memory_format=torch.channels_last)
    assert torch.equal(corrupt(strided, "GB-SW-IM-CO-R90-IN", ids=range(8), seed=0), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(corrupt(images, "GB-SW-IM-CO-R90-IN", ids=range(8), seed=0), expected)


def test_an_empty_batch_stays_empty():
    assert corrupt(torch.zeros(0, 3, 28, 28), "CO-IM-SW", ids=[], seed=0).shape == (0, 3, 28, 28)


@pytest.mark.parametrize(
    ("size", "composition", "severities", "message"),
    [
        ((28, 32), "CO", None, "square"),
        ((0, 0), "CO", None, "square"),
        ((8, 8), "CO-XX", None, "allowed: Identity"),
        ((8, 8), "CO-IN-CO", None, "repeats"),
        ((8, 8), [], None, "empty"),
        ((8, 8), "CO", {"CO": 0}, "from 1 to 5"),
        ((8, 8), "CO", {"Swirl": 6}, "from 1 to 5"),
        ((8, 8), "CO", {"CO": 2.0}, "from 1 to 5"),
        ((8, 8), "CO", {"CO": True}, "from 1 to 5"),
        ((8, 8), "CO", {"Invert": 1}, "no severities"),
        ((8, 8), "CO", {"Fog": 1}, "unknown corruption 'Fog'"),
    ],
)
def test_what_a_user_can_mend_is_one_line(size, composition, severities, message):
    images = torch.zeros(2, 3, *size)
    for call in (corrupt, lambda *args, **kwargs: next(stream(args[0], [args[1]], **kwargs))):
        with pytest.raises(InputError) as caught:
            call(images, composition, ids=[0, 1], seed=0, severities=severities)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "dtype", "ids"),
    [((3, 8, 8), torch.uint8, range(3)), ((2, 3, 8, 8), torch.int32, range(2)), ((2, 3, 8, 8), torch.uint8, range(3))],
)
def test_programming_errors_are_value_errors(shape, dtype, ids):
    with pytest.raises(ValueError, match="must be"):
        corrupt(torch.zeros(shape, dtype=dtype), "CO", ids=ids, seed=0)


def test_the_cut_truncates():
    levels = torch.tensor([0.0, 0.999, 1.0, 127.5, 254.999, 255.0])
    assert to_uint8(levels).tolist() == [0, 0, 1, 127, 254, 255] == quantize(levels).tolist()
    assert to_uint8(levels).dtype == torch.uint8
    assert quantize(levels).dtype == torch.float32
    images = corrupt(some_images((3, 32, 32)), "SW-CO-GB", ids=range(8), seed=0)
    assert torch.equal(to_uint8(images).float(), quantize(images))


def test_every_corruption_of_the_menu_has_a_function_and_a_new_one_takes_two_places(monkeypatch):
    assert set(corruptions.FUNCTIONS) == set(MENU)
    monkeypatch.setitem(info_dicts.CORRUPTIONS, 99, info_dicts.Choice("Darken", abbreviation="DA", severities=(0.5, 0.25), default=2))
    images = some_images((1, 9, 9))
    with pytest.raises(InputError, match="Darken is on the menu, but"):
        corrupt(images, "DA", ids=range(8), seed=0)
    monkeypatch.setitem(corruptions.FUNCTIONS, "Darken", lambda images, parameter, noise: images * parameter)
    assert torch.equal(corrupt(images, "IN-DA", ids=range(8), seed=0), (255 - images.float()) / 4)
    assert torch.equal(corrupt(images, [99], ids=range(8), seed=0, severities={"Darken": 1}), images.float() / 2)


def test_the_stream_gives_every_composition_once_and_the_same_pixels():
    images, ids, listed = some_images((1, 14, 14)), torch.arange(8) + 50, compositions("167")
    severities = {"Swirl": 1}
    seen = []
    for index, levels in stream(images, listed, ids=ids, seed=3, severities=severities):
        seen.append(index)
        assert torch.equal(levels, corrupt(images, listed[index], ids=ids, seed=3, severities=severities)), listed[index]
    assert sorted(seen) == list(range(167))


def test_the_stream_applies_each_shared_prefix_once(monkeypatch):
    calls = []
    original = corruptions.apply_step

    def counted(images, prefix, **rest):
        calls.append(prefix)
        return original(images, prefix, **rest)

    monkeypatch.setattr(corruptions, "apply_step", counted)
    alive = list(stream(some_images((1, 4, 4)), compositions("167"), ids=range(8), seed=0))
    assert len(alive) == 167
    assert len(calls) == len(set(calls)) == 294 + 1  # and Identity


def some_pil(mode, size=(28, 28)):
    image = some_images((3, *size))[0].permute(1, 2, 0).numpy()
    return PIL.Image.fromarray(image if mode == "RGB" else image[..., 0].copy())


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_transform_of_pil_images(mode):
    image = some_pil(mode)
    result = Corrupt("CO-R90")(image)
    assert isinstance(result, PIL.Image.Image)
    assert (result.mode, result.size) == (mode, image.size)
    channels = torch.from_numpy(np.array(image)).view(28, 28, -1).permute(2, 0, 1)
    expected = to_uint8(corrupt(channels[None], "CO-R90", ids=[0], seed=0))[0]
    assert np.array_equal(np.array(result).reshape(28, 28, -1), expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("wrap", [lambda images: images, tv_tensors.Image], ids=["tensor", "tv_tensors.Image"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("batch", [True, False])
def test_transform_of_tensors(wrap, dtype, batch):
    levels = some_images((3, 12, 12))[: 4 if batch else 1]
    images = levels if dtype == torch.uint8 else (levels / 255).to(dtype)
    images = wrap(images if batch else images[0])
    before = images.clone()
    result = Corrupt("SW-IN", severities={"SW": 2})(images)
    assert (type(result), result.dtype, result.shape) == (type(images), dtype, images.shape)
    assert torch.equal(images, before)
    expected = corrupt(levels, "SW-IN", ids=range(len(levels)), seed=0, severities={"SW": 2})
    expected = to_uint8(expected) if dtype == torch.uint8 else expected / 255
    tolerance = {torch.uint8: 0, torch.float16: 2e-3}.get(dtype, 1e-6)
    assert torch.allclose(result.as_subclass(torch.Tensor).double().view_as(expected), expected.double(), atol=tolerance, rtol=0)


def test_noise_of_the_transform_follows_the_global_generator():
    image, transform = torch.full((3, 28, 28), 128, dtype=torch.uint8), Corrupt("IM")
    torch.manual_seed(3)
    first, second = transform(image), transform(image)
    torch.manual_seed(3)
    assert torch.equal(transform(image), first)
    assert torch.equal(transform(image), second)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert not torch.equal(Corrupt("IM", seed=1)(image), first)
    batch = transform(image.expand(2, -1, -1, -1))
    assert not torch.equal(batch[0], batch[1])


def test_the_transform_passes_labels_through_and_refuses_what_would_no_longer_fit():
    image, label = some_images((1, 8, 8))[0], torch.tensor(3)
    result, same = Corrupt("IN")(image, label)
    assert torch.equal(result, 255 - image)
    assert same is label
    boxes = tv_tensors.BoundingBoxes([[0, 0, 2, 2]], format="XYXY", canvas_size=(8, 8))
    for refused in ((image, boxes), (image, tv_tensors.Mask(image[0]))):
        with pytest.raises(InputError, match="images only"):
            Corrupt("IN")(*refused)
    with pytest.raises(InputError, match="mode L or RGB"):
        Corrupt("IN")(some_pil("RGB").convert("CMYK"))
    with pytest.raises(InputError, match="square"):
        Corrupt("IN")(some_pil("L", size=(8, 9)))
    with pytest.raises(InputError, match="unknown corruption"):
        Corrupt("Fog")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("composition", ["IM", "R90", "IN", "CO", "GB", "SW", "GB-SW-CO-IM-R90-IN"])
def test_the_gpu_gives_the_same_noise_and_grey_levels(composition):
    images = some_images((3, 32, 32), n=50)
    here, there = (corrupt(images.to(device), composition, ids=range(50), seed=1).cpu() for device in ("cpu", "cuda"))
    assert (here - there).abs().max() < 1e-3
    if composition in ("IM", "R90", "IN"):
        assert torch.equal(here, there)


def test_noise_objects_cost_nothing_until_they_are_asked(monkeypatch):
    monkeypatch.setattr(Noise, "bits", lambda *_: pytest.fail("noise was drawn"))
    corrupt(some_images((1, 8, 8)), "CO-GB-IN-R90-SW", ids=range(8), seed=0)


@pytest.mark.parametrize("name", MENU)
def test_a_corruption_draws_where_it_says_so(name):
    images, ids = some_images((1, 28, 28)), range(8)
    assert torch.equal(*(corrupt(images, (name,), ids=ids, seed=seed) for seed in (1, 2))) is not corruptions.draws(name)
