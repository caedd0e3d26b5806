"""Augmentations as batched tensor code: crops, flips and rotations of images, and mixup of pairs."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

# Of CropFlipRotate: the side of the crop, and the largest angle in degrees.
CROP = 15 / 16
ANGLE = 45.0
# Of Mixup: the share of images that are mixed, and the parameters of the Beta distribution of the first image's share.
MIXED = 0.6
BETA = (2.0, 1.5)


def crop_flip_rotate(images_nchw: Tensor, generator: torch.Generator) -> Tensor:
    """Each of four changes with p = 0.5 for every image (N, C, H, W): a random crop resized to the full size, flips in both directions, a rotation.

    Bilinear, black outside; the type stays (grey levels are rounded). What is drawn comes from the generator alone.
    """
    n = len(images_nchw)
    crops, across, down, turned = (torch.rand(4, n, generator=generator) < 0.5).float()
    scale = 1 - crops * (1 - CROP)
    shift_n2 = (2 * torch.rand(n, 2, generator=generator) - 1) * (1 - scale[:, None])
    angle = turned * (2 * torch.rand(n, generator=generator) - 1) * math.radians(ANGLE)
    # From places of the result to places of the image, in coordinates from -1 to 1; a rotation of images that are not square is one of pixels.
    aspect = images_nchw.shape[2] / images_nchw.shape[3]
    flip_x, flip_y = 1 - 2 * across, 1 - 2 * down
    rows = [
        torch.stack([scale * flip_x * angle.cos(), -scale * flip_y * angle.sin() * aspect, shift_n2[:, 0]], dim=1),
        torch.stack([scale * flip_x * angle.sin() / aspect, scale * flip_y * angle.cos(), shift_n2[:, 1]], dim=1),
    ]
    grid = affine_grid(torch.stack(rows, dim=1), list(images_nchw.shape), align_corners=False).to(images_nchw.device)
    sampled = grid_sample(images_nchw.float(), grid, align_corners=False)
    return sampled.round().to(images_nchw.dtype) if not images_nchw.is_floating_point() else sampled.to(images_nchw.dtype)


def mixup(images_nchw: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mixed images, the row of the other image of each pair (N,), and the share of the first (N,) in 0..1 (Zhang et al., ICLR 2018).

    A share of MIXED of the images is mixed with another of the batch; the others are left as they are, with share 1.
    """
    n, device = len(images_nchw), images_nchw.device
    partner = torch.randperm(n, generator=generator)
    # numpy's, since torch's own Beta takes no generator.
    drawn = torch.from_numpy(np.random.default_rng(generator.initial_seed()).beta(*BETA, n)).float()
    share = torch.where(torch.rand(n, generator=generator) < MIXED, drawn, 1.0).to(device)
    weight = share.view(-1, 1, 1, 1)
    partner = partner.to(device)
    return weight * images_nchw + (1 - weight) * images_nchw[partner], partner, share
