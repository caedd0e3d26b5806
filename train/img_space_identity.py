"""ImgSpaceIdentity: a chain of autoencoders, one for each corruption of the image, before a classifier trained on clean images.

The autoencoders act one after another in the routing's order (published: the first corruption that was applied is undone first), and
nothing is clipped between them.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.networks import Activations, Network, count_parameters
from train.autoencoder import load_autoencoders
from train.method import Method, System, load_network
from train.routing import Routing


class ImgSpaceNetwork(System):
    """Autoencoders by corruption, and a classifier. Systems of one `restoration` share their restored images."""

    def __init__(self, autoencoders: dict[str, nn.Module], classifier: Network, routing: Routing, restoration: Hashable):
        super().__init__()
        self.autoencoders, self.classifier, self.restoration = nn.ModuleDict(autoencoders), classifier, restoration
        self.routing, self.router = routing, routing.router
        self.trained_parameters = self.total_parameters = count_parameters(self)

    @property
    def network(self) -> Network:  # type: ignore[override]
        return self.classifier

    def restore(self, images_nchw: Tensor, composition: Sequence[str]) -> Tensor:
        return self.routing.follow(self.chain, images_nchw, composition)

    def chain(self, images_nchw: Tensor, names: Sequence[str]) -> Tensor:
        """The images after the autoencoders for these corruptions, one after another."""
        for name in names:
            images_nchw = self.autoencoders[name](images_nchw)
        return images_nchw

    def activate(self, restored_nchw: Tensor, composition: Sequence[str]) -> Activations:
        return self.classifier.activate(restored_nchw)


class ImgSpaceIdentity(Method):
    @classmethod
    def system(cls, experiment: Any, device: torch.device) -> System:
        autoencoders = load_autoencoders(experiment.autoencoders(), device)
        router = experiment.router.hash if experiment.router else ""
        chain = (*(part.hash for part in experiment.autoencoders()), experiment.order, experiment.routing, experiment.seed, router)
        return ImgSpaceNetwork(autoencoders, load_network(experiment.classifier, device), Routing.of(experiment, device), chain).eval()
