"""Figures and tables of clusterability and lesions, from what the analyses say of two networks: what is drawn is what was found."""

import numpy as np
import openpyxl
import pandas as pd
import pytest

from analysis.table import Row
from errors import InputError
from plots import cluster_graph, cut_tables, cut_values, cuts, lesions
from plots.records import Record
from plots.results import Results
from train.build import build

GROUPS = ("blocks.0.2/0", "blocks.0.2/1", "blocks.1.0/0")
KINDS = (3, 4, 3)
ENTRY = {"dataset": 1, "method": "Identity", "model": "MLP-256x4", "lr": 0.1, "pruning": {"epochs": 1}, "epochs": 1}
FIGURES = [
    cuts.draw, cuts.draw_accuracy, cuts.draw_curves, cluster_graph.draw, lesions.draw, lesions.draw_joint, lesions.draw_dependencies,
    cut_tables.clustering, cut_tables.stability, cut_tables.lesion_table, cut_tables.double_lesion_table,
]  # fmt: skip


def cut_rows(ncut, shuffled):
    """What clusterability says, as far as figures read it."""
    rows = [Row("cluster_units", 100 + place, name) for place, name in enumerate(GROUPS)]
    rows += [Row("cluster_weight", 0.1, f"{GROUPS[0]}>{GROUPS[2]}"), Row("cluster_weight", 0.2, f"{GROUPS[1]}>{GROUPS[2]}")]
    for weights, more in (("", 0.0), ("unpruned_", 0.4)):
        rows += [Row(f"{weights}ncut", ncut + more), Row(f"{weights}inside_to_outside", 0.5)]
        for kind in ("layer", "layer_nonzero"):
            start = f"{weights}ncut_{kind}"
            p = (1 + sum(value <= ncut for value in shuffled)) / (len(shuffled) + 1)
            found = {
                "mean": np.mean(shuffled),
                "std": np.std(shuffled),
                "z": -1.0,
                "p": p,
                "p_low": 0.0,
                "p_high": 0.1,
                "low": 1.9,
                "high": 2.1,
            }
            rows += [Row(f"{start}_{name}", float(value)) for name, value in found.items()]
            rows += [Row(f"{start}_shuffled", value + more, str(place)) for place, value in enumerate(shuffled)]
    return rows


def lesion_rows():
    """What lesions say of three clusters, two of which are important, in two layers."""
    cells = {"split": "test", "composition": "Identity"}
    rows = [Row("lesion_intact", 0.9, **cells)]
    for place, (name, kind) in enumerate(zip(GROUPS, KINDS)):
        values = {
            "accuracy": 0.8 - 0.1 * place, "diff": -0.1 - 0.1 * place, "p": 0.02, "z": -3.0, "kind": kind, "random_mean": 0.88, "random_std": 0.01,
            "units": 20.0, "proportion": 0.5,
        }  # fmt: skip
        rows += [Row(f"lesion_{metric}", float(value), name, **cells) for metric, value in values.items()]
        rows += [Row("lesion_random", 0.88 + 0.01 * chance, f"{name}#{chance}", **cells) for chance in range(3)]
    for one in range(3):
        for other in range(one, 3):
            for metric, value in (("diff", -0.2), ("p", 0.02), ("kind", 3.0), ("interaction", 0.05 * one)):
                rows.append(Row(f"joint_{metric}", value, f"{GROUPS[one]}&{GROUPS[other]}", **cells))
        for other in range(3):
            if one != other:
                rows += [
                    Row(f"conditional_{metric}", value, f"{GROUPS[one]}|{GROUPS[other]}", **cells)
                    for metric, value in (("diff", -0.3), ("kind", 3.0))
                ]
    rows.append(Row("dependency", 2.0, f"{GROUPS[0]}>{GROUPS[2]}", **cells))
    return rows + [Row(f"dependencies_{kind}", float(kind == 2), **cells) for kind in (1, 2, 3, 4)]


def followed():
    rows = [{"stage": "train", "epoch": epoch, "valid_accuracy": 0.5 * epoch, "valid_loss": 1.0, "train_accuracy": 0.6 + 0.1 * epoch, "graph": {"ncut": 2.5 - 0.2 * epoch}} for epoch in (1, 2)]  # fmt: skip
    return (rows[0], rows[1] | {"sparsity": 0.9})


def results(*seeds):
    records = []
    for seed in seeds:
        shuffled = [2.0, 2.1, 2.2, 1.9 - 0.2 * seed]
        records.append(
            Record(
                build(ENTRY | {"seed": seed}), followed(), analyses={"clusterability": cut_rows(1.8, shuffled), "lesions": lesion_rows()}
            )
        )
    return Results("somewhere", tuple(records), ())


@pytest.mark.parametrize("draw", FIGURES)
def test_every_figure_writes_what_it_draws(draw, tmp_path):
    paths = draw(results(0, 1), tmp_path)
    assert len(paths) >= (1 if draw.__module__.endswith("cut_tables") else 3)
    assert all(path.stat().st_size > 0 for path in paths)


@pytest.mark.parametrize("draw", FIGURES)
def test_without_an_analysis_the_command_is_told(draw, tmp_path):
    nothing = Results("somewhere", (Record(build(ENTRY), followed()[:0]),), ())
    with pytest.raises(InputError, match=r"somewhere was analysed for it; .*(python -m analysis (clusterability|lesions) CONFIG|along: 1)"):
        draw(nothing, tmp_path)


def test_violins_have_the_shuffles_of_each_network(tmp_path):
    drawn = pd.read_csv(next(path for path in cuts.draw(results(0, 1), tmp_path) if path.suffix == ".csv"))
    assert len(drawn) == 2 * 2 * 2
    assert set(drawn["shuffles"]) == {4}
    assert sorted(set(drawn["ncut"])) == [1.8, 2.2]


def test_the_published_tables_have_their_columns_and_count_replicates(tmp_path, capsys):
    (path,) = cut_tables.clustering(results(0, 1), tmp_path)
    assert path.name == "mlp-clustering.csv"
    table = pd.read_csv(path)
    published = [
        "model",
        "network",
        "dropout",
        "is_unpruned",
        "shuffle_method",
        "ncut",
        "ave_in_out",
        "n_samples",
        "mean",
        "stdev",
        "z_score",
        "percentile",
    ]
    assert table.columns[: len(published)].tolist() == published
    assert len(table) == 8
    # Seed 1 has one shuffle below its network, which is a quarter.
    final = table[~table["is_unpruned"] & (table["shuffle_method"] == "layer")]
    assert sorted(final["percentile"]) == [0.0, 0.25]
    assert (table["p_corrected"] >= table["p"]).all()
    (path,) = cut_tables.stability(results(0, 1), tmp_path)
    assert path.name == "mlp-clustering-stability-statistic.csv"
    row = pd.read_csv(path).query("weights == 'final' and shuffle_method == 'layer'").iloc[0]
    assert (row["networks"], row["smallest"], row["stable"]) == (2, 1, False)
    means = [np.mean([2.0, 2.1, 2.2, 1.9]), np.mean([2.0, 2.1, 2.2, 1.7])]
    assert row["shuffled_mean"] == pytest.approx(np.mean(means))
    # The pooled deviation is that of all shuffles together.
    assert row["shuffled_sd_pooled"] == pytest.approx(np.std([2.0, 2.1, 2.2, 1.9, 2.0, 2.1, 2.2, 1.7]))
    assert "MNIST" in capsys.readouterr().out


def test_weights_before_the_pruning_have_the_scores_that_they_then_had(tmp_path):
    (path,) = cut_tables.clustering(results(0), tmp_path)
    table = pd.read_csv(path)
    assert set(table[table["is_unpruned"]]["train_accuracy"]) == {0.7}
    assert set(table[~table["is_unpruned"]]["train_accuracy"]) == {0.8}
    assert table[table["is_unpruned"]]["test_accuracy"].isna().all()
    [own] = cut_values.cut_systems(results(0), "cuts")
    run = str(own.rows["run"].iloc[0])
    assert cut_values.accuracies(own, run, "unpruned") == pytest.approx({"train_accuracy": 0.7, "valid_accuracy": 0.5, "valid_loss": 1.0})
    assert cut_values.accuracies(own, run, "untrained") == {}


def test_lesions_are_written_as_the_published_workbook(tmp_path):
    paths = cut_tables.lesion_table(results(0, 1), tmp_path)
    assert [path.name for path in paths] == ["mlp-lesion.csv", "mlp-lesion.xlsx"]
    book = openpyxl.load_workbook(paths[1])
    assert book.sheetnames == ["MNIST"]
    lines = list(book["MNIST"].values)
    assert list(lines[0]) == [
        "layer", "label", "diff", "corrected_pvalue", "label_in_layer_proportion", "true", "taxonomy", "mean", "std", "z_score", "n_layer_label",
    ]  # fmt: skip
    assert [line[6] for line in lines[1:]] == ["important", "prunable", "important"]
    assert len(pd.read_csv(paths[0])) == 6


def test_pairs_are_counted(tmp_path):
    (path,) = cut_tables.double_lesion_table(results(0), tmp_path)
    row = pd.read_csv(path).iloc[0]
    # Of six pairs one is of a cluster that is prunable by itself with itself; pairs with an important one are not important together only.
    assert (row["groups"], row["important"], row["pairs"], row["important_together_only"], row["type_II"], row["type_I"]) == (
        3,
        2,
        6,
        1,
        1,
        0,
    )


def test_a_matrix_has_the_values_of_its_pairs():
    table = lesions.matrix({"a&b": 1.0, "a&a": 2.0}, ["a", "b"], "&", True)
    assert np.array_equal(table, [[2.0, 1.0], [1.0, np.nan]], equal_nan=True)


def test_the_pruning_begins_behind_the_last_epoch_without_it(tmp_path):
    rows = results(0).table
    assert cuts.pruned_from(rows[rows["epoch"].notna()]) == 1
