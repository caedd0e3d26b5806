"""Corruptions in images per second, against the libraries and against the way of the field.

    python -m benchmarks corruptions

(a) Each corruption on a batch of 256, float32 0..255 in and out, one thread, against every library form; a form whose grey levels are not ours
within one (or, for noise, whose rate is not) does not count. Random forms have to be reproducible for each image, so they seed per image.
(b) The stream of the 167 compositions as uint8, one process per core, against a DataLoader with one worker per core whose Dataset takes each image
through its whole composition with scikit-image. Sides take turns; figures are medians of ROUNDS with their range. About two minutes on two cores.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable

import kornia
import numpy as np
import scipy.ndimage
import skimage.filters
import skimage.transform
import skimage.util
import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, pad
from torch.utils.data import DataLoader, Dataset

from benchmarks._figures import Figure, processes, spread
from data.compositions import ELEMENTALS, compositions
from data.corruptions import corrupt, parameter_of, stream, to_uint8
from data.torchvision_import import import_torchvision

import_torchvision()

from torchvision.transforms.v2 import functional as v2  # noqa: E402

ROUNDS = 5
BATCH = 256
SECONDS = 0.08  # each side of (a) repeats its call for so long in a round
SHAPES = {"28 px grey": (1, 28, 28), "32 px colour": (3, 32, 32)}
# Images of (b): the slow side gets fewer, both are given per composed image.
STREAM_IMAGES, FIELD_IMAGES = 1000, {"28 px grey": 50, "32 px colour": 30}
STREAM_CHUNK = 100

Form = Callable[[Tensor], Tensor]


def scikit_image(image_hwc: np.ndarray, name: str, seed: int) -> np.ndarray:
    """One step of the field's pipeline on one float32 image in 0..255."""
    parameter = parameter_of(name)
    if name == "Contrast":
        mean = image_hwc.mean((0, 1), keepdims=True)
        return np.clip((image_hwc - mean) * parameter + mean, 0, 255)
    if name == "GaussianBlur":
        return np.clip(skimage.filters.gaussian(image_hwc, parameter, channel_axis=2, preserve_range=True), 0, 255)
    if name == "ImpulseNoise":
        return skimage.util.random_noise(image_hwc / 255, "s&p", amount=parameter, rng=seed).astype(np.float32) * 255
    if name == "Rotate90":
        return skimage.transform.rotate(image_hwc, 90, preserve_range=True)
    if name == "Swirl":
        radius = np.sqrt(2) * len(image_hwc) / 2
        return skimage.transform.swirl(image_hwc, strength=parameter, radius=radius, preserve_range=True)
    return 255 - image_hwc


def per_image(name: str) -> Form:
    def form(images: Tensor) -> Tensor:
        done = [scikit_image(image, name, seed) for seed, image in enumerate(images.permute(0, 2, 3, 1).numpy())]
        return torch.from_numpy(np.stack(done).astype(np.float32)).permute(0, 3, 1, 2)

    return form


def blur_forms(shape: tuple[int, int, int]) -> dict[str, Form]:
    channels = shape[0]
    taps = np.exp(-0.5 * (np.arange(-8, 9) / 2.0) ** 2)
    kernel = torch.from_numpy((taps / taps.sum()).astype(np.float32)).expand(channels, 1, 1, 17)

    def separable(images: Tensor) -> Tensor:
        padded = pad(images, (8, 8, 8, 8), mode="replicate")
        return conv2d(conv2d(padded, kernel, groups=channels), kernel.transpose(2, 3), groups=channels)

    return {
        "scipy batch": lambda images: torch.from_numpy(scipy.ndimage.gaussian_filter(images.numpy(), (0, 0, 2, 2), mode="nearest")),
        "kornia": lambda images: kornia.filters.gaussian_blur2d(images, (17, 17), (2.0, 2.0), border_type="replicate"),
        # Its own border is another, so the image gets its border before.
        "torchvision": lambda images: v2.gaussian_blur(pad(images, (8,) * 4, mode="replicate"), [17, 17], [2.0, 2.0])[..., 8:-8, 8:-8],
        "torch separable": separable,
    }


def impulse_forms(shape: tuple[int, int, int]) -> dict[str, Form]:
    amount = parameter_of("ImpulseNoise") or 0.0
    augmentation = kornia.augmentation.RandomSaltAndPepperNoise(amount=(amount, amount), salt_vs_pepper=(0.5, 0.5), p=1.0)
    generator = torch.Generator()

    def hit(images: Tensor, draws: Tensor) -> Tensor:
        return images.masked_fill(draws < amount / 2, 0).masked_fill_(draws >= 1 - amount / 2, 255)

    def numpy_draws(images: Tensor) -> Tensor:
        draws = np.stack([np.random.default_rng(seed).random(shape, dtype=np.float32) for seed in range(len(images))])
        return hit(images, torch.from_numpy(draws))

    def torch_draws(images: Tensor) -> Tensor:
        draws = torch.empty_like(images)
        for seed, place in enumerate(draws):
            place.uniform_(generator=generator.manual_seed(seed))
        return hit(images, draws)

    def kornia_draws(images: Tensor) -> Tensor:
        done = []
        for seed, image in enumerate(images):
            torch.manual_seed(seed)
            done.append(augmentation(image[None] / 255) * 255)
        return torch.cat(done)

    return {"numpy, a generator per image": numpy_draws, "torch, a seed per image": torch_draws, "kornia, a seed per image": kornia_draws}


def contrast_forms(shape: tuple[int, int, int]) -> dict[str, Form]:
    factor = parameter_of("Contrast") or 0.0

    def numpy_batch(images: Tensor) -> Tensor:
        array = images.numpy()
        mean = array.mean((2, 3), keepdims=True)
        return torch.from_numpy(np.clip((array - mean) * np.float32(factor) + mean, 0, 255))

    def torch_batch(images: Tensor) -> Tensor:
        mean = images.mean((2, 3), keepdim=True)
        return ((images - mean) * factor + mean).clamp(0, 255)

    def kornia_batch(images: Tensor) -> Tensor:
        return kornia.enhance.adjust_contrast_with_mean_subtraction(images / 255, factor) * 255

    return {
        "numpy batch": numpy_batch,
        "torch": torch_batch,
        "kornia": kornia_batch,
        "torchvision": lambda images: v2.adjust_contrast(images / 255, factor) * 255,
    }


def invert_forms(shape: tuple[int, int, int]) -> dict[str, Form]:
    top = torch.tensor(255.0)
    return {
        "numpy batch": lambda images: torch.from_numpy(255 - images.numpy()),
        "kornia": lambda images: kornia.enhance.invert(images, top),
        "torchvision": lambda images: v2.invert(images / 255) * 255,
    }


def rotate_forms(shape: tuple[int, int, int]) -> dict[str, Form]:
    angle = torch.tensor(90.0)
    return {
        "numpy batch": lambda images: torch.from_numpy(np.ascontiguousarray(np.rot90(images.numpy(), axes=(2, 3)))),
        "torch": lambda images: images.rot90(1, (2, 3)).contiguous(),
        "torchvision": lambda images: v2.rotate(images, 90.0).contiguous(),
        "kornia": lambda images: kornia.geometry.rotate(images, angle.expand(len(images))),
    }


def swirl_forms(shape: tuple[int, int, int]) -> dict[str, Form]:
    size = shape[1]
    rows, columns = np.mgrid[:size, :size] - size / 2
    rho, theta = np.hypot(rows, columns), np.arctan2(rows, columns)
    theta = theta + 3 * np.exp(-rho * 5 / (np.sqrt(2) * size / 2 * np.log(2)))
    x, y = (torch.from_numpy((size / 2 + rho * f(theta)).astype(np.float32)) for f in (np.cos, np.sin))
    grid = torch.stack([x, y], dim=-1)[None] * (2 / (size - 1)) - 1

    def sampled(images: Tensor) -> Tensor:
        return grid_sample(images, grid.expand(len(images), -1, -1, -1), padding_mode="reflection", align_corners=True)

    def remapped(images: Tensor) -> Tensor:
        map_x, map_y = (axis.expand(len(images), -1, -1) for axis in (x, y))
        return kornia.geometry.remap(images, map_x, map_y, padding_mode="reflection", align_corners=True)

    return {"torch grid_sample": sampled, "kornia": remapped}


FORMS: dict[str, Callable[[tuple[int, int, int]], dict[str, Form]]] = {
    "Contrast": contrast_forms,
    "GaussianBlur": blur_forms,
    "ImpulseNoise": impulse_forms,
    "Invert": invert_forms,
    "Rotate90": rotate_forms,
    "Swirl": swirl_forms,
}


def same(name: str, ours: Tensor, theirs: Tensor, clean: Tensor) -> bool:
    """Whether a form computes the corruption: grey levels within one, or the rate of noise within four standard errors of ours."""
    if name != "ImpulseNoise":
        return bool((to_uint8(ours).int() - to_uint8(theirs.clamp(0, 255)).int()).abs().max() <= 1)
    rates = [((images - clean).abs() > 0.5).float().mean().item() for images in (ours, theirs)]
    return abs(rates[0] - rates[1]) < 4 * (2 * 0.25 / clean.numel()) ** 0.5


def images_per_second(form: Form, images: Tensor) -> float:
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < SECONDS:
        form(images)
        calls += 1
    return calls * len(images) / (time.perf_counter() - start)


def each_corruption() -> list[Figure]:
    """Part (a): a row for each corruption and size, against the fastest form."""
    rows = []
    for size, shape in SHAPES.items():
        images = torch.randint(0, 256, (BATCH, *shape), generator=torch.Generator().manual_seed(0)).float()
        ids = torch.arange(BATCH)
        for name in ELEMENTALS:
            ours = functools.partial(corrupt, composition=(name,), ids=ids, seed=0)
            forms: dict[str, Form] = {"ours": ours, "scikit-image per image": per_image(name), **FORMS[name](shape)}
            forms = {label: form for label, form in forms.items() if same(name, ours(images), form(images), images)}
            figures: dict[str, list[float]] = {label: [] for label in forms}
            for _ in range(ROUNDS):
                for label, form in forms.items():
                    figures[label].append(images_per_second(form, images))
            print(f"\n{name}, {size}, images/s")
            for label, values in figures.items():
                print(f"  {label:<30} {spread(values)}", flush=True)
            best = max((label for label in figures if label != "ours"), key=lambda label: statistics.median(figures[label]))
            rows.append(Figure(f"{name}, {size}, against {best}", figures["ours"], figures[best], 1.0))
    return rows


class PerImage(Dataset):
    """The way of the field: item i is an image taken through a whole composition by scikit-image and cut to uint8."""

    def __init__(self, images: np.ndarray):
        self.images_nhwc, self.compositions = images.transpose(0, 2, 3, 1), compositions("167")

    def __len__(self) -> int:
        return len(self.images_nhwc) * len(self.compositions)

    def __getitem__(self, item: int) -> Tensor:
        composition, image = divmod(item, len(self.images_nhwc))
        values = self.images_nhwc[image].astype(np.float32)
        for step, name in enumerate(self.compositions[composition]):
            if name != "Identity":
                values = scikit_image(values, name, seed=item * 8 + step)
        return torch.from_numpy(values.astype(np.uint8)).permute(2, 0, 1)


def walk(images: np.ndarray, first_id: int) -> int:
    """Streams all 167 compositions of some images as uint8; returns the bytes made."""
    made = 0
    for start in range(0, len(images), STREAM_CHUNK):
        chunk = torch.from_numpy(images[start : start + STREAM_CHUNK])
        ids = torch.arange(len(chunk)) + first_id + start
        made += sum(to_uint8(levels).numel() for _, levels in stream(chunk, compositions("167"), ids=ids, seed=0))
    return made


def whole_stream() -> list[Figure]:
    """Part (b): a row for each size."""
    cores = len(os.sched_getaffinity(0))
    rows = []
    with processes(cores) as pool:
        for size, shape in SHAPES.items():
            images = np.random.default_rng(0).integers(0, 256, (STREAM_IMAGES, *shape), dtype=np.uint8)
            shares = np.array_split(images, cores)
            first_ids = np.cumsum([0, *map(len, shares[:-1])]).tolist()
            field = PerImage(images[: FIELD_IMAGES[size]])
            loader = DataLoader(field, batch_size=256, num_workers=cores, persistent_workers=True)
            ours: list[float] = []
            other: list[float] = []
            for turn in range(ROUNDS + 1):
                start = time.perf_counter()
                assert sum(pool.map(walk, shares, first_ids)) == 167 * images.size
                middle = time.perf_counter()
                assert sum(len(batch) for batch in loader) == len(field)
                end = time.perf_counter()
                if turn:  # the first one starts the processes
                    ours.append(167 * len(images) / (middle - start))
                    other.append(len(field) / (end - middle))
            print(f"\n167 compositions, {size}, composed images/s on {cores} cores")
            print(f"  {'ours, a process per core':<30} {spread(ours)}")
            print(f"  {'DataLoader and scikit-image':<30} {spread(other)}")
            print(f"  ratio by round: {', '.join(f'{a / b:.1f}' for a, b in zip(ours, other))}", flush=True)
            rows.append(Figure(f"167 compositions, {size}, against DataLoader and scikit-image", ours, other, 25.0))
    return rows


def run() -> list[Figure]:
    """Rows {name, ours, other, unit, ratio, goal} of both parts; prints every form with its range. Torch's thread count is put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return each_corruption() + whole_stream()
    finally:
        torch.set_num_threads(threads)
