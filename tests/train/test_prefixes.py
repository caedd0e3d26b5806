"""What a frozen backbone makes of images below a module is computed once, where it stays the same, and changes no loss."""

import pytest
import torch

from models.networks import build_network
from tests.train.runs import COMMON, make, pretend
from train import prefixes
from train.build import build
from train.method import Stage
from train.prefixes import PrefixedBatch

pytestmark = pytest.mark.usefixtures("small_runs")

MODULE = COMMON | {"method": "Module", "lr": 0.05, "weight": 0.5, "backbone": {"lr": 0.05}}


def module_method(dataset, **entry):
    """A module's method on a backbone with fresh weights, and its network."""
    experiment = build(MODULE | entry)
    torch.manual_seed(0)
    pretend(experiment.backbone, build_network("SmallNet", 10), {"width": 1.0})
    method = make(experiment, dataset)
    return method, method.build(Stage("train", 2), {}).eval()


def counted(method, monkeypatch):
    """How many rows enter the backbone at level 0."""
    rows = []
    forward = method.backbone.forward
    monkeypatch.setattr(
        method.backbone, "forward", lambda x, start=0, stop=None: (rows.append(len(x) if start == 0 else 0), forward(x, start, stop))[1]
    )
    return rows


@pytest.mark.parametrize(("corruption", "ready"), [("Invert", 2), ("ImpulseNoise", 1)])
@pytest.mark.parametrize("level", range(5))
def test_batches_with_ready_features_have_the_loss_of_those_without(small, corruption, ready, level):
    method, network = module_method(small, corruption=corruption, level=level)
    for epoch in range(2):
        plain, prefixed = list(method.batches().batches.epoch(epoch)), list(method.batches().epoch(epoch))
        assert len(plain) == len(prefixed) == method.batches().steps()
        for one, other in zip(plain, prefixed):
            assert torch.equal(one.labels_n, other.labels_n)
            assert isinstance(other, PrefixedBatch) is (level > 0)
            if level:
                images = len(one.labels_n) // 2
                assert (len(other.images_nchw), len(other.features_n)) == ((2 - ready) * images, ready * images)
            torch.testing.assert_close(method.loss(network, one).loss, method.loss(network, other).loss, rtol=1e-5, atol=1e-6)
    for one, other in zip(method.batches().batches.validation(), method.batches().validation(), strict=True):
        assert torch.equal(method.loss(network, one).loss, method.loss(network, other).loss)


def test_the_backbone_sees_every_image_once_and_its_noise_in_every_epoch(small, monkeypatch):
    images = len(small.train.labels)
    for corruption, first, later in (("Swirl", 2 * images + 2, 0), ("ImpulseNoise", 2 * images + 2, images)):
        method, network = module_method(small, corruption=corruption, level=3)
        rows = counted(method, monkeypatch)
        for epoch, expected in ((0, first), (1, later)):
            rows.clear()
            for batch in method.batches().epoch(epoch):
                method.loss(network, batch)
            assert sum(rows) == expected
        rows.clear()
        list(method.batches().validation())
        seen = sum(rows)
        list(method.batches().validation())
        assert sum(rows) == seen == 2 * len(small.valid.labels)


@pytest.mark.parametrize(("entry", "limit"), [({"augmentation": "CropFlip"}, 2**30), ({}, 0)])
def test_nothing_is_kept_of_augmented_images_or_beyond_the_limit(small, monkeypatch, entry, limit):
    monkeypatch.setattr(prefixes, "KEEP_BYTES", limit)
    method, _ = module_method(small, corruption="Swirl", level=2, **entry)
    assert not any(isinstance(batch, PrefixedBatch) for batch in method.batches().epoch(0))


def test_the_clean_view_is_kept_where_only_one_fits(small, monkeypatch):
    method, _ = module_method(small, corruption="Swirl", level=3)
    with torch.no_grad():
        one = method.backbone(torch.zeros(1, 3, 28, 28), 0, 3).nbytes * len(small.train.labels)
    monkeypatch.setattr(prefixes, "KEEP_BYTES", one)
    batch = next(iter(method.batches().epoch(0)))
    assert len(batch.images_nchw) == len(batch.features_n) == len(batch.labels_n) / 2


def test_another_stage_has_the_features_of_its_own_level(small):
    method, _ = module_method(small, corruption="Swirl", level=3)
    for level in (1, 4):
        method.build(Stage(f"search-level{level}", 1), {})
        batch, plain = next(iter(method.batches().epoch(0))), next(iter(method.batches().batches.epoch(0)))
        with torch.no_grad():
            torch.testing.assert_close(batch.features_n, method.backbone(plain.images_nchw, 0, level), rtol=1e-5, atol=1e-6)
