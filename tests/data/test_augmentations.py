"""Augmentations: what they draw, and what they leave of an image."""

import numpy as np
import pytest
import torch
from scipy import stats

from data.augmentations import BETA, MIXED, crop_flip_rotate, mixup


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crops_flips_and_rotations_keep_type_shape_and_seed():
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=generator())
    first, again, other = (crop_flip_rotate(images, generator(seed)) for seed in (1, 1, 2))
    assert (first.dtype, first.shape) == (images.dtype, images.shape)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(32, 32), (64, 32)])
def test_each_change_is_drawn_for_half_of_the_images(shape):
    """A smooth image tells what was done to it: some are left alone, some only mirrored."""
    rows, columns = torch.meshgrid(torch.linspace(0, 100, shape[0]), torch.linspace(0, 150, shape[1]), indexing="ij")
    image = (rows + columns).round().to(torch.uint8)
    found = crop_flip_rotate(image.expand(3000, 1, *shape), generator())[:, 0].int()
    for wanted in (image, image.flip(1), image.flip(0), image.flip(0, 1)):
        same = ((found - wanted.int()).abs() <= 1).flatten(1).all(1).double().mean()
        # No crop, no rotation, and one of four mirrorings: 1/16 each; standard deviation 0.0044.
        assert abs(same - 1 / 16) < 0.018
    # Corners are black only where the image was turned: half of them, less those turned by next to nothing.
    turned = (found[:, 0, 0] == 0).double() + (found[:, -1, -1] == 0).double()
    assert 0.3 < (turned > 0).double().mean() < 0.75


def test_mixed_images_are_sums_by_share_and_shares_are_from_their_distribution():
    images = torch.rand(4000, 1, 2, 2, generator=generator())
    mixed, partner, share = mixup(images, generator(3))
    weight = share.view(-1, 1, 1, 1)
    assert torch.allclose(mixed, weight * images + (1 - weight) * images[partner])
    assert torch.equal(partner.sort().values, torch.arange(4000))
    drawn = share[share < 1].numpy()
    assert abs(len(drawn) / 4000 - MIXED) < 0.035
    assert stats.kstest(np.asarray(drawn, float), stats.beta(*BETA).cdf).pvalue > 1e-3
    assert torch.equal(mixup(images, generator(3))[0], mixed)
