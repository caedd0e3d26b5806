"""Networks that users bring along: what a factory may return, what of it becomes which block, and what is refused in which words."""

import copy
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from data.torchvision_import import import_torchvision
from errors import InputError
from models.networks import Network, build_autoencoder, build_module, build_network, count_parameters, user_choice, width_for

HEAD = """
import torch
from torch import nn
from models.networks import Network

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.fc = nn.Linear(16, classes)
    def forward(self, x):
        return self.fc(self.features(x))

def layers(classes):
    return [nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), nn.Sequential(nn.Linear(12, 5), nn.ReLU()), nn.Linear(5, classes)]
"""
numbers = itertools.count()

# What a factory returns, and the number of its blocks.
ALLOWED = {
    "network": ("Network(layers(classes))", 3),
    "list": ("layers(classes)", 3),
    "tuple": ("tuple(layers(classes))", 3),
    "sequential": ("nn.Sequential(*layers(classes))", 3),
    "module list": ("nn.ModuleList(layers(classes))", 3),
    "module": ("Net(classes)", 2),
    "nested sequential": ("nn.Sequential(layers(classes)[0], nn.Sequential(*layers(classes)[1:]))", 2),
    "wrapped module": ("nn.Sequential(nn.Identity(), Net(classes))", 2),
}
MODULES = [name for name, (_, blocks) in ALLOWED.items() if blocks == 2]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a factory of its own module from its body, and names it."""

    def write(body: str, head: str = HEAD, signature: str = "classes") -> str:
        # Python and user_choice keep what they have seen by name.
        name = f"users_networks_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(f"{head}\ndef make({signature}):\n    {body}\n")
        return f"{name}:make"

    monkeypatch.syspath_prepend(tmp_path)
    return write


def made(name: str, classes: int) -> nn.Module:
    """What the factory returns, as a module, untouched."""
    module, _, function = name.partition(":")
    found = getattr(__import__(module), function)(classes=classes)
    return found if isinstance(found, nn.Module) and not isinstance(found, nn.ModuleList) else nn.Sequential(*found)


@pytest.mark.parametrize(("expression", "blocks"), ALLOWED.values(), ids=ALLOWED)
def test_what_a_factory_returns_becomes_blocks_that_compute_the_same(factory: Callable[..., str], expression: str, blocks: int) -> None:
    name = factory(f"return {expression}")
    images = torch.randn(5, 3, 9, 12)
    torch.manual_seed(1)
    network = build_network(name, 7)
    torch.manual_seed(1)
    theirs = made(name, 7)
    assert isinstance(network, Network)
    assert len(network.blocks) == blocks == user_choice(name).blocks
    assert isinstance(network.blocks[-1], nn.Linear)
    assert count_parameters(network) == count_parameters(theirs)
    for training in (True, False):
        expected = theirs.train(training)(images)
        assert torch.equal(network.train(training)(images), expected)
    penultimate, logits = network.activate(images)
    assert penultimate.shape == (5, network.blocks[-1].in_features)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("expression", [ALLOWED[name][0] for name in MODULES], ids=MODULES)
def test_a_modules_last_layer_is_taken_out_of_it(factory: Callable[..., str], expression: str) -> None:
    network = build_network(factory(f"return {expression}"), 7)
    body, classifier = network.blocks
    assert all(layer is not classifier for layer in body.modules())
    assert isinstance(next(reversed([layer for layer in body.modules() if next(layer.children(), None) is None])), nn.Identity)
    network(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_a_network_is_taken_as_it_is_and_copies_of_modules_work(factory: Callable[..., str]) -> None:
    kept = factory("return kept", HEAD + "kept = Network(layers(10))")
    assert build_network(kept, 10) is build_network(kept, 10)
    network = build_network(factory("return Net(classes)"), 10).eval()
    images = torch.randn(2, 3, 8, 8)
    expected = network(images)
    twin = copy.deepcopy(network)
    assert torch.equal(twin(images), expected)
    twin.load_state_dict(build_network(factory("return Net(classes)"), 10).state_dict())
    assert not torch.equal(twin(images), expected)
    assert torch.equal(network(images), expected)


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small", "densenet121", "vgg11_bn"])
def test_torchvisions_networks_can_be_brought_along(factory: Callable[..., str], model: str) -> None:
    import_torchvision()
    name = factory(f"return getattr(__import__('torchvision').models, {model!r})(num_classes=classes)")
    assert user_choice(name).blocks == 2
    with torch.device("meta"):
        network = build_network(name, 10)
        levels = network.eval().levels(torch.empty(2, 3, 64, 64))
        theirs = made(name, 10)
    assert [level.shape for level in levels] == [(2, network.blocks[-1].in_features), (2, 10)]
    # The classifier is the last in both.
    assert [value.shape for value in network.parameters()] == [value.shape for value in theirs.parameters()]


def test_the_menu_line_of_a_users_network_draws_and_allocates_nothing(factory: Callable[..., str]) -> None:
    # 400 GB, were they real.
    name = factory("torch.manual_seed(3); return [nn.Flatten(), nn.Linear(100_000, 1_000_000), nn.Linear(1_000_000, classes)]")
    state = torch.get_rng_state()
    choice = user_choice(name)
    assert torch.equal(torch.get_rng_state(), state)
    assert (choice, choice.blocks, choice.sizes, choice.parts) == (name, 3, range(1, 4097), False)


def test_a_factory_that_needs_real_tensors_has_them_and_what_it_draws_is_given_back(factory: Callable[..., str]) -> None:
    name = factory("n = int(torch.rand(4).argmax()) * 0 + 5; return [nn.Flatten(), nn.Linear(12, n), nn.Linear(n, classes)]")
    with torch.device("meta"), pytest.raises(InputError, match="meta"):
        build_network(name, 3)
    state = torch.get_rng_state()
    assert user_choice(name).blocks == 3
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(parameter.is_meta for parameter in build_network(name, 3).parameters())


def test_networks_that_ignore_the_number_of_classes_fit_those_data_sets_alone(factory: Callable[..., str]) -> None:
    name = factory("return layers(47)")
    assert user_choice(name).blocks == 3
    assert build_network(name, 47)(torch.zeros(1, 3, 4, 4)).shape == (1, 47)
    with pytest.raises(
        InputError, match=rf"^{name}: its last layer has 47 outputs where 10 classes were asked for; allowed: a Network, [^\n]*$"
    ):
        build_network(name, 10)


REFUSED = {
    "no network": ("return 3", "makes a int; allowed"),
    "nothing": ("return None", "makes a NoneType; allowed"),
    "no blocks": ("return []", "makes a list; allowed"),
    "one block": ("return [nn.Linear(3, classes)]", "makes a list that ends in Linear; allowed"),
    "a layer": ("return nn.Linear(3, classes)", "makes a Linear that ends in Linear; allowed"),
    "other last block": ("return [*layers(classes), nn.Softmax(1)]", "makes a list that ends in Softmax; allowed"),
    "no module among blocks": ("return [torch.relu, nn.Linear(3, classes)]", "makes a list that ends in Linear; allowed"),
    "other last layer": ("return nn.Sequential(*layers(classes), nn.Softmax(1))", "makes a Sequential that ends in Softmax; allowed"),
    "empty": ("return nn.Sequential()", "makes a Sequential that ends in Sequential; allowed"),
    "network without classifier": ("return Network(layers(classes)[:2])", "makes a Network that ends in Sequential; allowed"),
    "raises": ("raise KeyError('first\\nsecond')", r"called with classes=10, raised KeyError: 'first\\nsecond'"),
    "raises two lines": ("raise ValueError('first\\nsecond')", "called with classes=10, raised ValueError: first$"),
    "raises silently": ("raise AssertionError", "called with classes=10, raised AssertionError: $"),
}


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED)
def test_what_else_a_factory_does_is_refused_in_one_line(factory: Callable[..., str], body: str, message: str) -> None:
    name = factory(body)
    for call in (lambda: user_choice(name), lambda: build_network(name, 10)):
        with pytest.raises(InputError, match=f"^{name}: ") as refused:
            call()
        assert "\n" not in str(refused.value)
        refused.match(message)


def test_factories_that_take_no_classes_and_those_that_are_not_there_are_refused(factory: Callable[..., str]) -> None:
    name = factory("return layers(10)", signature="")
    with pytest.raises(InputError, match=r"raised TypeError: make\(\) got an unexpected keyword argument 'classes'"):
        build_network(name, 10)
    for absent in (name.replace("make", "other"), "users_networks_nowhere:make"):
        for call in (user_choice, lambda name: build_network(name, 10)):
            with pytest.raises(InputError, match=f"^{absent}: cannot be imported"):
                call(absent)
    with pytest.raises(InputError, match="is a dict, not a function that makes it"):
        user_choice(factory("return table", HEAD + "table = {}").replace("make", "table"))


@pytest.mark.parametrize("after", ["x.log_softmax(1)", "x + 1", "x.clone()"])
def test_a_module_that_goes_on_after_its_last_layer_is_refused_when_it_runs(factory: Callable[..., str], after: str) -> None:
    body = f"class After(Net):\n        def forward(self, x):\n            x = super().forward(x)\n            return {after}\n    return After(classes)"
    name = factory(body)
    network = build_network(name, 10)
    with pytest.raises(InputError, match=f"^{name}: its output is not that of its last layer, fc; allowed: a Network, "):
        network(torch.randn(2, 3, 8, 8))


def test_a_module_whose_last_registered_layer_runs_first_is_refused_when_it_runs(factory: Callable[..., str]) -> None:
    body = (
        "class Reversed(nn.Module):\n        def __init__(self):\n            super().__init__()\n"
        "            self.second, self.first = nn.Linear(classes, classes), nn.Linear(12, classes)\n"
        "        def forward(self, x):\n            return self.second(self.first(x.flatten(1)))\n    return Reversed()"
    )
    network = build_network(factory(body), 12)
    with pytest.raises(InputError, match="its output is not that of its last layer, first"):
        network(torch.randn(2, 3, 2, 2))


def test_a_sequential_that_does_more_than_its_layers_is_not_taken_apart(factory: Callable[..., str]) -> None:
    body = (
        "class Doubled(nn.Sequential):\n        def forward(self, x):\n            return super().forward(2 * x)\n"
        "    return Doubled(*layers(classes))"
    )
    name = factory(body)
    torch.manual_seed(1)
    network = build_network(name, 4)
    torch.manual_seed(1)
    theirs = made(name, 4)
    images = torch.randn(2, 3, 4, 4)
    assert len(network.blocks) == 2
    assert torch.equal(network(images), theirs(images))


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_users_networks_have_one_width_and_no_depth(factory: Callable[..., str], width: float) -> None:
    name = factory("return layers(classes)")
    with pytest.raises(InputError, match=rf"^{name}: has one width, that which its factory gives it; allowed: 1, not {width:g}$"):
        build_network(name, 10, width)
    with pytest.raises(InputError, match=rf"^{name}: has no depth to choose, got 20$"):
        build_network(name, 10, 1.0, 20)
    with pytest.raises(InputError, match="has one width"):
        width_for(name, 10, 1_000_000)


def test_users_networks_have_no_modules_and_no_autoencoders(factory: Callable[..., str]) -> None:
    name = factory("return layers(classes)")
    with pytest.raises(InputError, match=f"^{name} has no module"):
        build_module(name, 0)
    with pytest.raises(ValueError, match=r"has levels 0\.\.2, not 3"):
        build_module(name, 3)
    with pytest.raises(InputError, match=f"^{name} has no autoencoder"):
        build_autoencoder(name, 28)
