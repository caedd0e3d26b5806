"""One more of each: a corruption, a data set, a method, a model, an analysis and a figure, added to a copy of the project in the places the README names."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import info_dicts
from data.compositions import sample_167
from tests.train.test_experiment import GOLDEN
from train.build import build
from train.entry import ROOT

CORRUPTION = '''

@elemental("Mirror")
def mirror(images_nchw: Tensor, parameter: None, noise: Noise) -> Tensor:
    """Left and right exchanged."""
    return images_nchw.flip(3)
'''
CORRUPTION_LINE = 'Choice("Mirror", abbreviation="MI", severities=(), default=None)'

DATASET = '''

@dataset("Stripes", needs_source=False)
def stripes(source: Source) -> Splits:
    """Noise with bright rows (class 0) or bright columns (class 1)."""
    generator = np.random.default_rng(0)

    def split(count: int) -> Split:
        images, labels = generator.integers(0, 128, (count, 1, 28, 28), dtype=np.uint8), np.arange(count) % 2
        images[labels == 0, :, ::4] += 128
        images[labels == 1, :, :, ::4] += 128
        return Split(images, labels, np.arange(count))

    return {"train": split(400), "valid": split(100), "test": split(200)}
'''
DATASET_LINE = (
    'Choice("Stripes", classes=2, shape=(1, 28, 28), counts=(400, 100, 200), mean=(0.5,), std=(0.5,), '
    'model="Perceptron", augmentation="None", padding=4)'
)

MODEL = '''"""Perceptron: one hidden layer."""

from torch import nn

from models.networks import Network, autoencoder, module, network, scaled


@network("Perceptron")
def perceptron(classes: int, width: float) -> Network:
    """Two blocks for (N, 3, 28, 28) images; level 1 is (64,), after a ReLU."""
    units = scaled(64, width)
    return Network([nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, units), nn.ReLU()), nn.Linear(units, classes)])


@module("Perceptron")
def perceptron_module(level: int, width: float, max_kernel: int) -> nn.Module:
    """A convolution at level 0, a linear layer at 1."""
    units = scaled(64, width)
    return nn.Conv2d(3, 3, min(5, max_kernel), padding="same") if level == 0 else nn.Linear(units, units)


@autoencoder("Perceptron")
def perceptron_autoencoder(size: int, width: float) -> Network:
    """One hidden layer between images."""
    pixels, units = 3 * size * size, scaled(64, width)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, units), nn.ReLU())
    return Network([encoder, nn.Sequential(nn.Linear(units, pixels), nn.Unflatten(1, (3, size, size)))])
'''
MODEL_LINE = 'Choice("Perceptron", blocks=2, sizes=(28,))'

METHOD = '''"""LabelSmoothing: CrossEntropy towards targets that leave a share of the probability to all classes."""

from torch import nn
from torch.nn.functional import cross_entropy

from data.batches import Batch
from train.cross_entropy import CrossEntropy
from train.method import Step


class LabelSmoothing(CrossEntropy):
    def loss(self, network: nn.Module, batch: Batch) -> Step:
        logits = network(batch.images_nchw)
        return Step(cross_entropy(logits, batch.labels_n, label_smoothing=self.experiment.smoothing), logits)
'''
FIELDS = '''

class LabelSmoothing(Views):
    """Cross-entropy with softened targets."""

    method: Literal["LabelSmoothing"] = "LabelSmoothing"
    smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.1
'''
METHOD_LINE = 'Choice("LabelSmoothing", oracle="none")'

ANALYSIS = '''"""The mean penultimate unit of each system on each composition."""

import json

import torch

from analysis.walk import respond


@torch.inference_mode()
def measure(systems, data, paths, device, tick):
    found = [{} for _ in systems]
    for start, stop in data.chunks():
        for place, _, images in data.walk(start, stop, device):
            for own, seen in zip(found, respond(systems, images, data.compositions[place])):
                own.setdefault("-".join(data.compositions[place]), []).append(float(seen.penultimate_nu.mean()))
            tick()
    for path, own in zip(paths, found):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(own))
'''
ANALYSIS_LINE = 'Choice("mean_unit")'

FIGURE = '''"""The number of values of each metric."""

from matplotlib.figure import Figure

from plots.style import save, styled


def draw(results, folder):
    counted = results.table.groupby("metric").size().rename("values").reset_index()
    with styled():
        figure = Figure()
        figure.subplots().bar(counted["metric"], counted["values"])
        return save(figure, counted, folder, "values")
'''

LIST = """
- &base {dataset: Stripes, epochs: 3, batch_size: 32, lr: 0.02, method: LabelSmoothing, smoothing: 0.2,
         corruptions: [Mirror, Rotate90], evaluation: {compositions: [ID, MI, R90-MI]}}
- {<<: *base, method: LabelSmoothing, seed: 1, model: SmallNet, corruptions: [Mirror]}
- {dataset: Stripes, epochs: 3, batch_size: 32, method: ModularSystem, corruptions: [Mirror, Rotate90],
   backbone: {lr: 0.02}, module: {level: auto, search_epochs: 1, lr: 0.02, weight: 0.1}, evaluation: {compositions: [ID, MI, R90-MI]}}
- {dataset: Stripes, epochs: 3, batch_size: 32, method: ImgSpaceIdentity, corruptions: [Mirror, Rotate90],
   autoencoder: {lr: 0.02}, classifier: {lr: 0.02}, evaluation: {compositions: [ID, MI, R90-MI]}}
- {dataset: FashionMNIST-mini, model: Perceptron, epochs: 1, lr: 0.02, method: Identity, evaluation: {images: 100, compositions: [ID, MI]}}
"""


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def insert(path: Path, before: str, after: str) -> None:
    body = path.read_text()
    assert before in body
    path.write_text(body.replace(before, after, 1))


def add_to_menu(copy: Path, menu: str, line: str) -> int:
    """Adds a choice at the end of a menu under the next number, which it returns."""
    path = copy / "info_dicts.py"
    body, number = path.read_text(), 0
    start = body.index(f"{menu} = {{")
    end = body.index("\n}\n", start)
    number = 1 + max(int(found) for found in re.findall(r"^    (\d+): ", body[start:end], re.MULTILINE))
    path.write_text(f"{body[:end]}\n    {number}: {line},{body[end:]}")
    return number


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the tracked files, with one more of each."""
    folder = tmp_path_factory.mktemp("copy")
    for name in subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and not name.startswith("tests/") and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    append(folder / "data" / "corruptions.py", CORRUPTION)
    append(folder / "data" / "datasets.py", DATASET)
    append(folder / "train" / "experiment.py", FIELDS)
    (folder / "train" / "label_smoothing.py").write_text(METHOD)
    (folder / "models" / "perceptron.py").write_text(MODEL)
    (folder / "analysis" / "mean_unit.py").write_text(ANALYSIS)
    insert(folder / "analysis" / "analyses.py", "import activations, deephys", "import activations, deephys, mean_unit")
    insert(folder / "analysis" / "analyses.py", '    "deephys"', '    "mean_unit": Analysis(mean_unit.measure, ".json"),\n    "deephys"')
    (folder / "plots" / "values.py").write_text(FIGURE)
    insert(folder / "plots" / "figures.py", "    box_plot,\n", "    values,\n    box_plot,\n")
    insert(folder / "plots" / "figures.py", '    "box_plot"', '    "values": values.draw,\n    "box_plot"')
    numbers = [
        add_to_menu(folder, menu, line)
        for menu, line in [
            ("CORRUPTIONS", CORRUPTION_LINE),
            ("DATASETS", DATASET_LINE),
            ("METHODS", METHOD_LINE),
            ("MODELS", MODEL_LINE),
            ("ANALYSES", ANALYSIS_LINE),
        ]
    ]
    assert min(numbers) > 1
    (folder / "list.yaml").write_text(LIST)
    return folder


def python(copy, *arguments):
    environment = os.environ | {
        "PALIMPSEST_RUNS": str(copy / "runs"),
        "PALIMPSEST_DATA": str(copy / "datasets"),
        "WANDB_MODE": "disabled",
        "PYTHONPATH": str(copy),
    }
    ended = subprocess.run([sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_one_more_of_each_trains_is_evaluated_and_stands_in_the_results(copy):
    printed = python(copy, "-m", "train", "list.yaml", "--workers", "1")
    assert "FAILED" not in printed
    counts, command = python(copy, "-m", "train", "list.yaml", "--list").splitlines()[-2:]
    assert counts == "5 entries: 5 done"
    # Submit where there is Slurm, else run.
    assert command in [f"bash submit_array.sh list.yaml would {verb} nothing" for verb in ("submit", "run")]
    table = pd.read_csv(io.StringIO(python(copy, "-m", "plots.results", "list.yaml")))
    tested = table[(table.metric == "accuracy") & (table.split == "test")]
    assert set(tested.method) == {"LabelSmoothing", "ModularSystem", "ImgSpaceIdentity", "Identity"}
    assert set(tested.dataset) == {"Stripes", "FashionMNIST-mini"}
    assert set(tested.model) == {"Perceptron", "SmallNet"}
    assert set(tested.composition) == {"Identity", "Mirror", "Rotate90-Mirror"}
    values = tested.set_index(["dataset", "method", "model", "composition"]).value
    # Rows stay rows in the mirror; a quarter turn makes columns of them, which only who was trained on it can tell.
    assert values["Stripes", "LabelSmoothing", "Perceptron", "Mirror"] > 0.8
    assert values["Stripes", "LabelSmoothing", "SmallNet", "Mirror"] > 0.8
    assert values["Stripes", "ModularSystem", "Perceptron", "Identity"] > 0.8
    assert values["FashionMNIST-mini", "Identity", "Perceptron", "Identity"] > 0.3
    assert {path.name.split("-")[0] for path in (copy / "runs" / "Stripes").iterdir()} == {
        "LabelSmoothing", "Identity", "Module", "ModularSystem", "Autoencoder", "ImgSpaceIdentity",
    }  # fmt: skip

    printed = python(copy, "-m", "analysis", "mean_unit", "list.yaml")
    written = [json.loads(Path(line.rpartition("done, in ")[2]).read_text()) for line in printed.splitlines()]
    assert len(written) == 5
    assert all("Identity" in means and means.keys() <= {"Identity", "Mirror", "Rotate90-Mirror"} for means in written)
    drawn = python(copy, "-m", "plots", "values", "list.yaml").splitlines()
    assert [Path(line).name for line in drawn] == ["values.csv", "values.pdf", "values.png"]
    # What is drawn stands in the report.
    [*_, report] = python(copy, "-m", "plots", "report", "list.yaml").splitlines()
    assert 'id="figure-values"' in Path(report).read_text()


REPORT = """
import hashlib, json, sys
from data.compositions import compositions, sample_167
from train.build import build
entries = json.load(open(sys.argv[1]))
assert compositions("167") == sample_167()
print(json.dumps([[build(entry).hash for entry in entries], hashlib.sha256(repr(compositions("167")).encode()).hexdigest()]))
"""


def test_what_was_there_keeps_its_hashes_and_the_167_compositions(copy, tmp_path):
    entries = [entry for entry, _ in GOLDEN]
    (tmp_path / "entries.json").write_text(json.dumps(entries))
    hashes, compositions = json.loads(python(copy, "-c", REPORT, str(tmp_path / "entries.json")))
    assert len(hashes) > 5
    assert hashes == [build(entry).hash for entry in entries]
    assert compositions == hashlib.sha256(repr(sample_167()).encode()).hexdigest()


def test_the_menu_knows_the_new_ones_by_number_and_name(copy):
    code = (
        "from train.build import build; import info_dicts as i; last = lambda menu: max(menu)\n"
        "a = build({'dataset': last(i.DATASETS), 'method': last(i.METHODS), 'model': last(i.MODELS), 'corruptions': [last(i.CORRUPTIONS)], 'lr': 1})\n"
        "b = build({'dataset': 'Stripes', 'method': 'LabelSmoothing', 'corruptions': ['Mirror'], 'lr': 1})\n"
        "assert a.hash == b.hash; print(a.name)"
    )
    assert python(copy, "-c", code).startswith("LabelSmoothing-lr1-s0-")


def test_the_numbers_of_the_readmes_examples_are_free():
    """Pasted as they stand, they must replace nothing on the menus."""
    found = re.findall(r"^# in info_dicts\.(\w+)\n +(\d+): Choice", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {menu for menu, _ in found} == {"CORRUPTIONS", "DATASETS", "METHODS"}
    for menu, number in found:
        assert int(number) not in getattr(info_dicts, menu), f"{menu} {number}"
