"""torchvision imports beside this torch, whichever build it is."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data.torchvision_import import import_torchvision

ROOT = Path(__file__).resolve().parents[2]


def in_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_torchvision_and_importing_again_gives_the_same() -> None:
    torchvision = import_torchvision()
    assert torchvision.__name__ == "torchvision"
    assert import_torchvision() is torchvision
    assert sys.modules["torchvision"] is torchvision


def test_an_ordinary_import_works_afterwards_in_a_new_process() -> None:
    code = "from data.torchvision_import import import_torchvision; tv = import_torchvision(); import torchvision; print(torchvision is tv, torchvision.models.resnet18)"
    assert in_new_process(code).startswith("True <function resnet18")


def test_nothing_is_imported_before_it_is_called() -> None:
    assert in_new_process("import sys, data.torchvision_import; print('torch' in sys.modules, 'torchvision' in sys.modules)").split() == [
        "False",
        "False",
    ]


def test_networks_and_transforms_work() -> None:
    import_torchvision()
    from torchvision.models.resnet import BasicBlock
    from torchvision.transforms import v2

    block = BasicBlock(4, 4)
    block(torch.ones(2, 4, 6, 6)).sum().backward()
    assert block.conv1.weight.grad is not None
    image = torch.arange(12, dtype=torch.uint8).view(1, 3, 4)
    assert torch.equal(v2.functional.horizontal_flip(image), image.flip(-1))


def test_compiled_operators_work_or_say_why_not() -> None:
    torchvision = import_torchvision()
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
    scores = torch.tensor([0.5, 0.9, 0.1])
    if torchvision.extension._has_ops():
        assert torchvision.ops.nms(boxes, scores, 0.5).tolist() == [1, 2]
    else:
        with pytest.raises(RuntimeError, match="custom C\\+\\+ ops"):
            torchvision.ops.nms(boxes, scores, 0.5)


@pytest.mark.parametrize("message", ["operator torchvision::nms is broken", "out of memory"])
def test_other_failures_are_not_hidden(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("data.torchvision_import.importlib.import_module", fail)
    with pytest.raises(RuntimeError, match=message):
        import_torchvision()
