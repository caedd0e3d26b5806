"""`make mlp-...`: the commands of the published products name lists and figures that there are, and a small list gives the files."""

import os
import re
import subprocess
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
import yaml

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


@pytest.mark.slow
def test_a_small_list_gives_all_products(tmp_path, monkeypatch):
    common = {
        "dataset": "FashionMNIST-mini", "method": "Identity", "model": "MLP-256x4", "epochs": 1, "pruning": {"epochs": 1}, "batch_size": 512, "optimizer": "Adam",
        "schedule": "constant", "lr": 0.001, "inputs": "unit", "evaluation": {"compositions": ["Identity"], "images": 100},
    }  # fmt: skip
    cut, cutting = {"shuffles": 4, "along": 1}, {"labelings": 4, "images": 100}
    entries = [common | {"seed": seed, "analyses": {"clusterability": cut, "lesions": cutting | {"pair_labelings": 2}}} for seed in (0, 1)]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(entries))
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    small = [f"{name}={tmp_path / 'small.yaml'}" for name in ("MLP", "LESION", "DOUBLE")]
    make(*TARGETS[2:], *small, f"RESULTS={tmp_path / 'results'}")
    table = pd.read_csv(tmp_path / "results" / "mlp-clustering.csv")
    assert len(table) == 2 * 4 * 2
    assert pd.read_csv(tmp_path / "results" / "mlp-clustering-stability-statistic.csv")["networks"].tolist() == [2]
    assert openpyxl.load_workbook(tmp_path / "results" / "mlp-lesion.xlsx").sheetnames == ["FashionMNIST-mini"]
    names = {path.name.partition("-")[0] for path in Path(tmp_path / "results").iterdir() if path.suffix == ".png"}
    assert names == {"cuts", "cut_accuracy", "cut_curves", "cluster_graph", "lesions", "joint_lesions", "dependencies"}
    assert os.listdir(tmp_path / "results")
