"""Checkpoints: whole or noticed, and the one before is always there."""

import random

import pytest
import torch

from train import checkpoint
from train.checkpoint import checkpoint_paths, load_checkpoint, save_checkpoint


def write(directory, *numbers):
    for number in numbers:
        save_checkpoint(directory, {"number": number, "weights": torch.full((1000,), float(number))})


def test_the_last_one_is_read_and_the_one_before_is_kept(tmp_path, capsys):
    assert load_checkpoint(tmp_path) is None
    write(tmp_path, 1, 2, 3)
    assert load_checkpoint(tmp_path)["number"] == 3
    last, _previous = checkpoint_paths(tmp_path)
    last.unlink()
    found = load_checkpoint(tmp_path)
    assert found["number"] == 2
    assert torch.equal(found["weights"], torch.full((1000,), 2.0))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_one_is_noticed_at_any_byte_and_the_one_before_is_used(tmp_path, capsys, damage):
    draw = random.Random(0)
    write(tmp_path, 1, 2)
    last, _previous = checkpoint_paths(tmp_path)
    whole = last.read_bytes()
    for _ in range(50):
        at = draw.randrange(len(whole))
        flipped = whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :]
        last.write_bytes({"cut": whole[:at], "flipped": flipped, "empty": b""}[damage])
        assert load_checkpoint(tmp_path)["number"] == 1
        (said,) = capsys.readouterr().err.splitlines()
        assert f"{last} is damaged" in said
        assert said.endswith("going on from previous.pt")


def test_where_none_is_whole_the_training_begins_again_and_says_so(tmp_path, capsys, monkeypatch):
    write(tmp_path, 1, 2)
    for path in checkpoint_paths(tmp_path):
        path.write_bytes(path.read_bytes()[:-1])
    assert load_checkpoint(tmp_path) is None
    assert capsys.readouterr().err.strip().endswith("there is no other, so the training begins again")
    write(tmp_path, 3)
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    assert load_checkpoint(tmp_path) is None
    assert "has an older form" in capsys.readouterr().err
