"""`make mlp-...`: the commands of the published products name lists and figures that there are."""

import re
import subprocess

import pytest

from plots.figures import FIGURES
from train.entry import ROOT

TARGETS = (
    "datasets", "models", "mlp-clustering", "mlp-clustering-stability", "mlp-lesion", "mlp-double-lesion", "mlp-learning-curve", "mlp-plots",
)  # fmt: skip


def make(*arguments):
    found = subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_target_runs_is_there(target):
    commands = make("-n", target)
    assert "python -m" in commands or "submit_array.sh" in commands
    for path in re.findall(r"configs/\w+\.yaml", commands):
        assert (ROOT / path).exists()
    # A loop names its figures before `do`.
    figures = re.findall(r"python -m plots (\w+)", commands) + [
        name for names in re.findall(r"for figure in ([\w ]+);", commands) for name in names.split()
    ]
    assert set(figures) <= set(FIGURES)
    assert figures or target in ("datasets", "models")
