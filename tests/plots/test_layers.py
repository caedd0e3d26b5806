"""Figures of layers, from what analyses say of them: what is drawn, in which order, and where the border stands."""

import pandas as pd
import pytest

from analysis.table import Row
from errors import InputError
from plots import layer_profiles, layer_table, layers, layers_over_epochs, probe_map, projection
from plots.records import Record
from plots.results import Results
from train.build import build

pytestmark = pytest.mark.usefixtures("png_alone")

LAYERS = ("blocks.0.0", "blocks.2.conv1", "blocks.10.conv1", "blocks.11")
FIGURES = (
    layers.draw,
    layer_profiles.draw_probes,
    layer_profiles.draw_saturation,
    projection.draw,
    probe_map.draw,
    layer_table.draw,
    layers_over_epochs.draw,
)


def rows_of(seed: int) -> dict[str, list[Row]]:
    """What analyses would say: values that tell layer, composition and seed."""
    found: dict[str, list[Row]] = {"saturation": [], "probes": [], "receptive_field": [], "projection": [], "cost": []}
    for place, layer in enumerate(LAYERS):
        for number, composition in enumerate(("Identity", "Contrast", "Invert")):
            value = 0.5 - 0.1 * place + 0.01 * number + 0.02 * seed
            found["saturation"].append(Row("saturation_0.99", value, layer, "test", composition))
            for metric in ("probe_accuracy_4x4", "probe_accuracy_own_4x4", "probe_accuracy_untrained_4x4"):
                found["probes"].append(Row(metric, 0.2 + value, layer, "test", composition))
                found["probes"].append(Row(metric, 0.1 + value, f"level {place}", "test", composition))
        found["receptive_field"].append(Row("covered", float(place >= 2), layer))
        found["receptive_field"].append(Row("covered_smallest", float(place >= 3), layer))
    for row in range(2):
        for column in range(3):
            found["probes"].append(Row("probe_accuracy_pixel", 0.1 * (3 * row + column), f"blocks.0.0@{row},{column}", "test", "Identity"))
    for delta in (0.9, 1.0):
        found["projection"].append(Row(f"projected_accuracy_{delta:g}", 0.4 * delta, "", "test", "Identity"))
        found["projection"].append(Row(f"projected_share_{delta:g}", delta / 2, "", "train"))
    found["cost"].append(Row("flops", 3e6))
    return found


def followed() -> tuple[dict, ...]:
    """Rows of two epochs along which saturation was followed."""
    own = {layer: {"saturation_0.99": 0.1 * place} for place, layer in enumerate(LAYERS)}
    return tuple({"stage": "train", "epoch": epoch, "layers": {"train": own, "valid": own}, "layers_every": 2} for epoch in (1, 2))


def results(*seeds: int) -> Results:
    entry = {"dataset": 0, "method": "Identity", "lr": 0.1}
    return Results("somewhere", tuple(Record(build(entry | {"seed": seed}), followed(), analyses=rows_of(seed)) for seed in seeds), ())


def drawn(paths) -> pd.DataFrame:
    assert {path.suffix for path in paths} >= {".csv"}
    assert all(path.stat().st_size > 0 for path in paths)
    return pd.read_csv(next(path for path in paths if path.suffix == ".csv"))


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: f"{draw.__module__.rpartition('.')[2]}.{draw.__name__}")
def test_what_was_not_analysed_names_the_command(draw, tmp_path):
    nothing = Results("somewhere", (Record(build({"dataset": 0, "method": "Identity", "lr": 0.1})),), ())
    with pytest.raises(
        InputError, match=r"nothing in somewhere was analysed for it; (run first: python -m analysis|analyses: \{saturation)"
    ):
        draw(nothing, tmp_path)
    assert not list(tmp_path.iterdir())


def test_layers_stand_in_the_order_of_the_forward_pass_with_means_over_seeds(tmp_path):
    table = drawn(layers.draw(results(0, 1), tmp_path))
    saturation = table[table["metric"] == "saturation_0.99"]
    assert saturation["layer"].tolist() == list(LAYERS)
    assert saturation["value"].tolist() == pytest.approx([0.51 - 0.1 * place for place in range(4)])
    probes = table[table["metric"] == "probe_accuracy_4x4"]
    assert probes["layer"].tolist() == list(LAYERS)
    assert probes["value"].tolist() == pytest.approx([0.71 - 0.1 * place for place in range(4)])
    assert table[table["metric"] == "border_covered"]["layer"].tolist() == ["blocks.10.conv1"]
    assert table[table["metric"] == "border_covered_smallest"]["layer"].tolist() == ["blocks.11"]


def test_profiles_have_a_line_for_every_composition_and_prefer_levels(tmp_path):
    table = drawn(layer_profiles.draw_probes(results(0), tmp_path))
    assert set(table["condition"]) == {"ID", "CO", "IN"}
    assert set(table["kind"]) == {"clean", "own", "untrained"}
    assert set(table["layer"]) == {f"level {place}" for place in range(4)}
    clean = table[(table["kind"] == "clean") & (table["condition"] == "IN")]
    assert clean["value"].tolist() == pytest.approx([0.62 - 0.1 * place for place in range(4)])
    saturation = drawn(layer_profiles.draw_saturation(results(0), tmp_path))
    assert set(saturation["layer"]) == set(LAYERS)


def test_projections_are_by_delta_with_what_is_left(tmp_path):
    table = drawn(projection.draw(results(0), tmp_path))
    assert table["delta"].tolist() == [0.9, 1.0]
    assert table["accuracy"].tolist() == pytest.approx([0.36, 0.4])
    assert table["share"].tolist() == pytest.approx([0.45, 0.5])


def test_epochs_along_a_training(tmp_path):
    table = drawn(layers_over_epochs.draw(results(0), tmp_path))
    assert len(table) == 2 * 2 * len(LAYERS)
    assert set(table["epoch"]) == {1, 2}
    assert table["layer"].drop_duplicates().tolist() == list(LAYERS)


def test_positions_are_a_map(tmp_path):
    table = drawn(probe_map.draw(results(0), tmp_path))
    assert len(table) == 6
    assert table.set_index(["row", "column"])["value"].to_dict() == {
        (row, column): pytest.approx(0.1 * (3 * row + column)) for row in range(2) for column in range(3)
    }


def test_a_table_of_models(tmp_path, capsys):
    table = drawn(layer_table.draw(results(0, 1), tmp_path))
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["seeds"], row["layers"], row["behind border"], row["by shortest path"], row["MFLOPs"]) == (2, 4, 2, 1, 3)
    assert row["saturation_0.99"] == pytest.approx(100 * 0.36)
    assert "SmallNet" in capsys.readouterr().out
