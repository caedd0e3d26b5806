"""The contrastive loss between the views of an image."""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(features_vbd: Tensor, temperature: float) -> Tensor:
    """Return the multi-positive contrastive loss of V views of B images, a scalar >= 0, unweighted (arXiv 2306.09005).

    `features_vbd` is a float tensor (V, B, ...): slot [v, b] holds the features of image b in view v; everything after B is flattened and
    divided by its L2 norm (a zero vector stays zero). With s the cosine, an anchor a = (view v, image u) and another view w of its image,

        l(a, w) = -log[ exp(s(a, u_w)/t) / (exp(s(a, u_w)/t) + sum of exp(s(a, .)/t) over every view of every other image) ]

    Other positives are left out of the denominator and labels play no role. The loss is the sum over the V-1 positive slots of the mean of l over
    all V*B anchors; it is not divided by V-1. It is 0, still attached to the graph, for one view and for one image (no negatives).
    Computed in float32, under autocast too, or in float64 for float64 features. Raises ValueError unless temperature > 0 and V and B exist.
    """
    if features_vbd.dim() < 3 or features_vbd.numel() == 0:
        raise ValueError(f"features are (views, images, ...) and not empty, not {tuple(features_vbd.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature is positive, not {temperature}")
    views, images = features_vbd.shape[:2]
    features_vbd = features_vbd.flatten(2).to(torch.promote_types(features_vbd.dtype, torch.float32))
    if views == 1 or images == 1:
        return (features_vbd * 0).sum()
    with torch.autocast(features_vbd.device.type, enabled=False):
        norm = torch.linalg.vector_norm(features_vbd, dim=-1, keepdim=True)
        # Dividing a zero vector by 1 and not by a tiny number keeps its gradient finite.
        rows = (features_vbd / torch.where(norm > 0, norm, 1)).flatten(0, 1)
        similarity_vbvb = (rows @ rows.T).div(temperature).view(views, images, views, images)
        same_image = torch.eye(images, dtype=torch.bool, device=rows.device).view(1, images, 1, images)
        negatives_vb = similarity_vbvb.masked_fill(same_image, -torch.inf).logsumexp(dim=(2, 3))
        positives_vwb = similarity_vbvb.diagonal(dim1=1, dim2=3)
        loss_vwb = -F.logsigmoid(positives_vwb - negatives_vb[:, None, :])
        same_view = torch.eye(views, dtype=torch.bool, device=rows.device)[:, :, None]
        return loss_vwb.masked_fill(same_view, 0).sum() / (views * images)
