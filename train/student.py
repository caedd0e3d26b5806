"""Student: a network trained by the outputs of a finished teacher (distillation), each on images under a mechanism of its own.

The loss is (1 - alpha) base + alpha term: base is the KL divergence of tempered logits (Hinton et al. 2015), the term is the menu's. With `alpha: auto`
it is (base + w term) / 2, with the w that makes both equal on the first batches: so its size, and the lr that suits it, are the base's. Students are
validated, and their best weights chosen, by the base loss alone, whatever they are trained with; those trained on labels by cross-entropy.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from data.batches import Batch
from data.content import DataSet
from data.cue_batches import CueBatch
from data.keys import derive
from losses.distillation import distillation_loss
from models.networks import Network
from train.counterfactual import answers
from train.distilling import Pair, make_term
from train.method import Stage, Step, load_network
from train.teacher import CueMethod, correct, mixed_cross_entropy

# Batches by which `alpha: auto` makes both parts of the loss equal.
BALANCED = 8


class Pupil(nn.Module):
    """A student with what is trained beside it."""

    def __init__(self, student: Network, term: nn.Module | None = None):
        super().__init__()
        self.student, self.term = student, term


class Student(CueMethod):
    def __init__(self, experiment: Any, dataset: DataSet, device: torch.device):
        super().__init__(experiment, dataset, device)
        if experiment.teacher is not None:
            self.teacher = load_network(experiment.teacher, device)
        loss = experiment.choice("loss")
        self.has_term, self.by_teacher = loss.term, loss.teacher
        self.weights = (1.0, 0.0)
        self._validation: Tensor | None = None

    def build(self, stage: Stage, results: dict[str, dict[str, float]]) -> nn.Module:
        # Not the initialisation of a teacher with the same seed and model.
        torch.manual_seed(derive("student", self.experiment.seed))
        student = self.fresh().to(self.device)
        if not self.has_term:
            return Pupil(student)
        first = next(self.batches().epoch(0))
        pair = self.pair(copy.deepcopy(student), first)
        pupil = Pupil(student, make_term(self.experiment, pair, self.batches().size).to(self.device))
        alpha = self.experiment.alpha
        self.weights = self.balanced(pupil) if alpha == "auto" else (1 - alpha, alpha)
        return pupil

    def balanced(self, pupil: Pupil) -> tuple[float, float]:
        """Weights of base and term with which both are half as large as the base over the first batches, before anything is trained."""
        copied = copy.deepcopy(pupil)
        base, term = 0.0, 0.0
        for number, batch in enumerate(self.batches().epoch(0)):
            if number == BALANCED:
                break
            parts = self.parts(copied, batch)
            base, term = base + parts[0].item(), term + parts[1].item()
        return 0.5, 0.5 * base / term if term > 0 else 0.5

    def pair(self, student: Network, batch: CueBatch) -> Pair:
        """Both networks on a batch, one forward pass each."""
        assert self.teacher is not None
        with torch.no_grad():
            teacher_levels = self.teacher.levels(batch.images_nchw)
        return Pair(batch, student, self.teacher, student.levels(batch.images_nchw), teacher_levels)

    def parts(self, pupil: Pupil, batch: CueBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Base loss, term, and the student's logits."""
        assert pupil.term is not None
        pair = self.pair(pupil.student, batch)
        logits = pair.student_levels[-1]
        return distillation_loss(logits, pair.teacher_levels[-1], self.experiment.temperature), pupil.term(pair), logits

    def loss(self, network: nn.Module, batch: Batch) -> Step:
        assert isinstance(batch, CueBatch)
        assert isinstance(network, Pupil)
        if self.has_term and network.training:
            base, term, logits = self.parts(network, batch)
            return Step(self.weights[0] * base + self.weights[1] * term, logits, correct(logits, batch))
        logits = network.student(batch.images_nchw)
        if not self.by_teacher:
            return Step(mixed_cross_entropy(logits, batch), logits, correct(logits, batch))
        assert self.teacher is not None
        teacher = answers(self.teacher, [batch.images_nchw]) if network.training else self.taught_validation()[batch.rows_n]
        return Step(distillation_loss(logits, teacher, self.experiment.temperature), logits, correct(logits, batch))

    def taught_validation(self) -> Tensor:
        """The teacher's logits (M, classes) of the validation images, which are the same in every epoch, so computed once."""
        assert self.teacher is not None
        if self._validation is None:
            self._validation = answers(self.teacher, (batch.images_nchw for batch in self.batches().validation()))
        return self._validation

    def product(self, network: nn.Module) -> nn.Module:
        assert isinstance(network, Pupil)
        return network.student

    def facts(self, results: dict[str, dict[str, float]]) -> dict[str, Any]:
        return super().facts(results) | ({"base_weight": self.weights[0], "term_weight": self.weights[1]} if self.has_term else {})
