"""Jacobian matching: a student's logits shall move with the pixels as its teacher's do (Srinivas and Fleuret, ICML 2018, arXiv 1803.00443)."""

from collections.abc import Callable

import torch
from torch import Tensor

from losses.feature_matching import unit_rows


def top_classes(teacher_nk: Tensor, k: int) -> Tensor:
    """The k classes with the largest teacher logits of each image, int64 (N, k). Raises ValueError unless 1 <= k <= classes."""
    if not 1 <= k <= teacher_nk.shape[1]:
        raise ValueError(f"there are {teacher_nk.shape[1]} classes; the number of top classes cannot be {k}")
    return teacher_nk.topk(k, dim=1).indices


def jacobians(network: Callable[[Tensor], Tensor], images_nchw: Tensor, classes_nk: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
    """Logits (N, classes) and per-image Jacobians (N, k, C*H*W): row j of image b is d logit[classes[b, j]] / d image b.

    One forward pass; row j of all images is one vector-Jacobian product, and a GPU does the k of them at once. The network must treat the images of a
    batch independently of each other, so batch norms have to be in eval mode. With `create_graph` the result can be differentiated with respect to
    the network's weights; without it carries no graph.
    """
    images = images_nchw.detach().requires_grad_()
    with torch.enable_grad():
        logits_nk = network(images)
        # Of image b, product j takes the logit of classes[b, j]: (k, N, classes), a one in each row.
        chosen_knc = torch.zeros(classes_nk.shape[1], *logits_nk.shape, dtype=logits_nk.dtype, device=logits_nk.device)
        chosen_knc.scatter_(2, classes_nk.T.unsqueeze(2), 1.0)
        if images.is_cuda:
            (rows_knchw,) = torch.autograd.grad(logits_nk, images, chosen_knc, is_grads_batched=True, create_graph=create_graph)
        else:
            # A core has nothing to gain from more work at once; with the gradient's gradient one after the other took 0.5 to 0.9 times as long.
            products = [torch.autograd.grad(logits_nk, images, own, create_graph=create_graph, retain_graph=True)[0] for own in chosen_knc]
            rows_knchw = torch.stack(products)
    jacobians_nkd = rows_knchw.flatten(2).transpose(0, 1)
    return (logits_nk, jacobians_nkd) if create_graph else (logits_nk.detach(), jacobians_nkd.detach())


def jacobian_loss(student_nkd: Tensor, teacher_nkd: Tensor) -> Tensor:
    """The mean over images of || Jt / |Jt| - Js / |Js| ||^2, a scalar in 0..4 (equation 10 of the paper).

    Each image has one norm, that of its whole (k, pixels) Jacobian; a zero Jacobian stays zero. Squared, so that the gradient is finite, and
    zero, where both are equal.
    """
    student_nd, teacher_nd = unit_rows(student_nkd.flatten(1)), unit_rows(teacher_nkd.flatten(1))
    return (teacher_nd - student_nd).square().sum(1).mean()
