"""Corruptions for other pipelines: a torchvision v2 transform."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from data.compositions import Written, abbreviate, parse
from data.corruptions import check_severities, corrupt, to_uint8
from data.torchvision_import import import_torchvision
from errors import InputError

import_torchvision()

from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import v2  # noqa: E402
from torchvision.transforms.v2.functional import to_pil_image  # noqa: E402


class Corrupt(v2.Transform):
    """Puts square images under a composition of corruptions.

    Takes what v2 transforms take: an image or a structure that holds images, which are tensors or `tv_tensors.Image` (C, H, W) or (N, C, H, W)
    in uint8 or floating point 0..1, or PIL images in mode L or RGB. Returns the same type, dtype and mode: uint8 and PIL are cut (not rounded) to
    grey levels, floating point is not. Everything else passes through, but boxes, masks, keypoints and videos, which would no longer fit, are refused.

    Noise is fresh in every call: the call draws one number from torch's global generator, so torch.manual_seed, and the seeds that a DataLoader
    gives its workers, reproduce it. Images of one call's structure share the draw, the images of a batch do not. `seed` selects another noise for the same draws.

    `composition` and `severities` are as in `data.corruptions.corrupt`, and so are the errors.
    """

    _transformed_types = (v2.functional.is_pure_tensor, tv_tensors.Image, PIL.Image.Image)

    def __init__(self, composition: Written, severities: Mapping[str, int] | None = None, seed: int = 0):
        super().__init__()
        self.composition, self.severities, self.seed = parse(composition), check_severities(severities), seed

    def extra_repr(self) -> str:
        return f"{abbreviate(self.composition)!r}, severities={self.severities}, seed={self.seed}"

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        unfit = (tv_tensors.BoundingBoxes, tv_tensors.KeyPoints, tv_tensors.Mask, tv_tensors.Video)
        for item in flat_inputs:
            if isinstance(item, unfit):
                raise InputError(f"Corrupt takes images only, got {type(item).__name__}; corruptions are not defined for it")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        return {"draw": int(torch.randint(2**62, ()))}

    def transform(self, inpt: Any, params: dict[str, int]) -> Any:
        if isinstance(inpt, PIL.Image.Image):
            if inpt.mode not in ("L", "RGB"):
                raise InputError(f"Corrupt takes PIL images in mode L or RGB, got {inpt.mode}; convert them first")
            levels = torch.from_numpy(np.array(inpt)).view(inpt.height, inpt.width, -1).permute(2, 0, 1)
            return to_pil_image(self._corrupt(levels, params["draw"]), inpt.mode)
        images = inpt.as_subclass(Tensor)
        corrupted = self._corrupt(images, params["draw"])
        return tv_tensors.wrap(corrupted, like=inpt) if isinstance(inpt, tv_tensors.Image) else corrupted

    def _corrupt(self, images: Tensor, draw: int) -> Tensor:
        batch = images if images.ndim == 4 else images[None]
        levels = batch if batch.dtype == torch.uint8 else batch * 255
        ids = draw + torch.arange(len(batch))
        corrupted = corrupt(levels, self.composition, ids=ids, seed=self.seed, severities=self.severities)
        corrupted = to_uint8(corrupted) if batch.dtype == torch.uint8 else (corrupted / 255).to(batch.dtype)
        return corrupted.view_as(images)
