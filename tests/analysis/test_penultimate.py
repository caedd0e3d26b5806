"""What enters the classifier, for every method that classifies: the logits stay what they were, to the bit."""

import pytest
import torch

from data.compositions import parse
from tests.analysis.systems import ROUTED, ROUTER, SYSTEMS, entry, system_of

pytestmark = pytest.mark.usefixtures("small_runs")
CASES = (
    [(method, {}) for method in SYSTEMS] + [(method, ROUTER) for method in ROUTED] + [(method, {"order": "reverse"}) for method in ROUTED]
)
COMPOSITIONS = [parse(name) for name in ("ID", "SW", "CO-GB-IM", "R90-IM-SW", "CO-GB-IM-IN-R90-SW")]


def blocks(network, features, start=0):
    """The blocks of a network from one on, one after another."""
    for block in list(network.blocks)[start:]:
        features = block(features)
    return features


def modular(system, images, names):
    """The logits as the systems gave them before anything else was asked of them: backbone and modules, level by level."""
    features, at = images, 0
    for level, name in sorted(((system.levels[name], name) for name in names), key=lambda step: step[0]):
        features = system.modules_of[name](system.backbone(features, at, level))
        at = level
    return blocks(system.backbone, features, at)


def logits_of(system, images, composition):
    """Likewise for any system, with its routes."""
    if hasattr(system, "levels"):
        return system.routing.follow(lambda rows, names: modular(system, rows, names), images, composition)
    classifier = system.classifier if hasattr(system, "autoencoders") else system.network
    return blocks(classifier, system.restore(images, composition))


@pytest.fixture
def images():
    return torch.rand(9, 3, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("method", "more"), CASES)
@torch.inference_mode()
def test_logits_are_what_they_were_and_follow_from_what_enters_the_classifier(method, more, images):
    system = system_of(entry(method, **more))
    parts = (getattr(system, name, None) for name in ("backbone", "classifier", "network"))
    classifier = next(part for part in parts if part is not None).blocks[-1]
    units = []
    for composition in COMPOSITIONS:
        found = system.activate(system.restore(images, composition), composition)
        expected = logits_of(system, images, composition)
        assert torch.equal(found.logits_nk, expected)
        assert torch.equal(system(images, composition), expected)
        assert torch.equal(system.classify(system.restore(images, composition), composition), expected)
        assert found.penultimate_nu.shape == (9, 128)
        torch.testing.assert_close(classifier(found.penultimate_nu), expected, rtol=1e-5, atol=1e-6)
        units.append(found.penultimate_nu)
    told = any(not torch.equal(units[0], other) for other in units[1:])
    assert told == (method in ROUTED and more != ROUTER)


@torch.inference_mode()
def test_a_module_at_the_classifiers_level_acts_before_what_enters_the_classifier(images):
    system = system_of(entry("ModularSystem"))
    repaired = system.activate(images, parse("IM")).penultimate_nu
    plain = system.backbone.activate(images).penultimate_nu
    assert torch.equal(repaired, system.modules_of["ImpulseNoise"](plain))
    assert not torch.equal(repaired, plain)
