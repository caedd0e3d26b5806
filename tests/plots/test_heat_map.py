import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.compositions import abbreviate, compositions
from plots import heat_map
from plots.__main__ import main
from plots.points import points
from plots.results import find
from plots.style import styled
from tests.plots.conftest import COUNTS, CROSS_ENTROPY, DATASET, IDENTITY, NAMES, SYSTEM, Study, random_bits


def test_map_has_every_composition_and_system_once(study: Study, capsys: pytest.CaptureFixture) -> None:
    entries = [IDENTITY, CROSS_ENTROPY, {**CROSS_ENTROPY, "seed": 2}, SYSTEM]
    bits = [random_bits(seed) for seed in range(4)]
    for entry, correct in zip(entries, bits):
        study.trained(entry, correct)
    path = study.list_of(*entries)
    assert main(["heat_map", str(path), "--out", str(study.folder / "out")]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == [f"heat_map-{DATASET}.{suffix}" for suffix in ("csv", "pdf", "png")]
    with Image.open(paths[2]) as image:
        assert image.size[0] == 1400
    table = pd.read_csv(paths[0]).set_index("label")
    assert sorted(table.index) == sorted(abbreviate(names) for names in NAMES)
    expected = {"Identity": bits[0], "CrossEntropy": (bits[1] * 0.5 + bits[2] * 0.5), "ModularSystem": bits[3]}
    for system, values in expected.items():
        np.testing.assert_allclose(table[system].loc[[abbreviate(names) for names in NAMES]], values.mean(axis=1))
    # Numbers of corruptions rise, and the orders of a set stand together.
    assert table["n_corruptions"].is_monotonic_increasing
    starts = (table["set"] != table["set"].shift()).sum()
    assert starts == table["set"].nunique()
    assert table["set"].iloc[7:11].tolist() == ["CO+GB", "CO+GB", "CO+IM", "CO+IM"]


def test_panels_key_and_marks(study: Study) -> None:
    study.trained(IDENTITY, np.repeat((COUNTS == 0)[:, None], 20, axis=1))
    study.trained(SYSTEM, random_bits(0))
    rows = points(find(study.list_of(IDENTITY, SYSTEM)))
    with styled():
        figure = heat_map.draw_map(rows, heat_map.arrange(rows))
        figure.savefig(io.BytesIO(), dpi=50)
    *panels, bar = figure.axes
    assert [axes.get_title() for axes in panels] == ["clean, 1, 2 corruptions", *(f"{n} corruptions" for n in range(3, 7))]
    assert [len(axes.get_yticklabels()) for axes in panels] == [37, 40, 30, 30, 30]
    assert panels[0].images[0].get_array()[0].tolist()[0] == 100.0
    assert {text.get_text(): text.xy[0] for text in bar.texts} == {"chance": 10.0, "clean": 100.0}
    assert figure.get_supxlabel() == "1 Identity      2 ModularSystem"
    # One scale for all panels.
    assert {axes.images[0].get_clim() for axes in panels} == {(0, 100)}


def test_all_orders_are_means_of_their_sets() -> None:
    names = compositions("1957")
    values = np.random.default_rng(0).random(len(names))
    counts = [0 if own == ("Identity",) else len(own) for own in names]
    rows = pd.DataFrame({"dataset": DATASET, "split": "test", "images": 5, "method": "CrossEntropy", "system": "CrossEntropy"} | {
        "n_corruptions": counts, "composition": ["-".join(own) for own in names], "accuracy": values, "seeds": 1,
    })  # fmt: skip
    table = heat_map.arrange(rows)
    assert table.groupby("n_corruptions").size().tolist() == [1, 6, 15, 20, 15, 6, 1]
    means = {own: values[[index for index, other in enumerate(names) if set(other) == set(own)]].mean() for own in names}
    found = dict(zip(table["label"], table["CrossEntropy"]))
    assert found["CO+GB+SW"] == pytest.approx(means["Contrast", "GaussianBlur", "Swirl"])
    assert found["ID"] == pytest.approx(values[0])
    assert "mean over the orders of each set" in heat_map.draw_map(rows, table).get_suptitle()
