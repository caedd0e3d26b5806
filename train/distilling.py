"""The second terms of students' losses by their names on the menu: what each needs of both networks, and what it trains beside the student."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from data.cue_batches import CueBatch
from errors import InputError
from losses.attention_transfer import attention_transfer_loss
from losses.crd import CRD
from losses.embedded_contrastive import Embeddings, contrastive_distillation_loss
from losses.feature_matching import FeatureMatching
from losses.jacobian import jacobian_loss, jacobians, top_classes
from models.networks import Network, as_tested


@dataclass(frozen=True)
class Pair:
    """Both networks on a batch: all levels of each from its one forward pass, the last being the logits. The teacher's carry no graph."""

    batch: CueBatch
    student: Network
    teacher: Network
    student_levels: Sequence[Tensor]
    teacher_levels: Sequence[Tensor]


# A term is a module that makes a scalar of a pair. Its parameters are trained with the student's, its buffers are part of the checkpoint.
Maker = Callable[[Any, Pair, int], nn.Module]
_makers: dict[str, Maker] = {}


def term(loss: str) -> Callable[[Maker], Maker]:
    """Decorator: registers `make(experiment, pair, n_images) -> nn.Module` as the second term of a loss; the pair shows the sizes of features."""

    def register(make: Maker) -> Maker:
        _makers[loss] = make
        return make

    return register


def make_term(experiment: Any, pair: Pair, n_images: int) -> nn.Module:
    """The second term of an experiment's loss; InputError where there is none."""
    if experiment.loss not in _makers:
        raise InputError(f"{experiment.loss} is on the menu, but train/distilling.py has no @term({experiment.loss!r})")
    return _makers[experiment.loss](experiment, pair, n_images)


def units(levels: Sequence[Tensor]) -> int:
    """The number of penultimate units."""
    return levels[-2].flatten(1).shape[1]


def last_map(levels: Sequence[Tensor]) -> Tensor:
    """The deepest level that is a map (N, C, H, W) larger than one pixel; every network of images has one."""
    return next(level for level in reversed(levels) if level.dim() == 4 and level[0, 0].numel() > 1)


@term("Jacobian")
class JacobianTerm(nn.Module):
    """Both networks' Jacobians as tested, of the teacher's top classes."""

    def __init__(self, experiment: Any, pair: Pair, n_images: int):
        super().__init__()
        self.rows: int = experiment.rows

    def forward(self, pair: Pair) -> Tensor:
        images, classes = pair.batch.images_nchw, top_classes(pair.teacher_levels[-1], self.rows)
        _, teacher = jacobians(pair.teacher, images, classes, create_graph=False)
        with as_tested(pair.student):
            _, student = jacobians(pair.student, images, classes, create_graph=True)
        return jacobian_loss(student, teacher)


@term("Contrastive")
class ContrastiveTerm(nn.Module):
    """Embeddings of both networks' penultimate units, which are trained too."""

    def __init__(self, experiment: Any, pair: Pair, n_images: int):
        super().__init__()
        self.temperature: float = experiment.contrast
        self.embeddings = Embeddings(units(pair.student_levels), units(pair.teacher_levels))

    def forward(self, pair: Pair) -> Tensor:
        student, teacher = self.embeddings(pair.student_levels[-2], pair.teacher_levels[-2])
        return contrastive_distillation_loss(student, teacher, self.temperature)


@term("FeatureMatching")
class FeatureMatchingTerm(nn.Module):
    """Normalised penultimate units."""

    def __init__(self, experiment: Any, pair: Pair, n_images: int):
        super().__init__()
        self.matching = FeatureMatching(units(pair.student_levels), units(pair.teacher_levels))

    def forward(self, pair: Pair) -> Tensor:
        return self.matching(pair.student_levels[-2], pair.teacher_levels[-2])


@term("AttentionTransfer")
class AttentionTransferTerm(nn.Module):
    """Attention maps of the deepest maps."""

    def __init__(self, experiment: Any, pair: Pair, n_images: int):
        super().__init__()

    def forward(self, pair: Pair) -> Tensor:
        return attention_transfer_loss(last_map(pair.student_levels), last_map(pair.teacher_levels))


@term("CRD")
class CRDTerm(nn.Module):
    """Penultimate units against memory banks of all training images."""

    def __init__(self, experiment: Any, pair: Pair, n_images: int):
        super().__init__()
        self.crd = CRD(units(pair.student_levels), units(pair.teacher_levels), n_images, temperature=experiment.contrast)

    def forward(self, pair: Pair) -> Tensor:
        return self.crd(pair.student_levels[-2], pair.teacher_levels[-2], pair.batch.rows_n)
