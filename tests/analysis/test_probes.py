"""Probes of real tiny runs: every number is what a fit by hand gives, however features are grouped, and a killed analysis goes on."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch

from analysis import latents, probes
from analysis.logistic import fit
from analysis.options import Latents, Probes
from analysis.pooling import pool, pooled_size
from analysis.probes import extract, groups, points, run
from analysis.table import OPTIONS, TABLE, read_table
from analysis.taps import tapped
from errors import InputError, Interrupted
from tests.analysis.looked_at import inputs, seen, small_convolutions
from tests.analysis.systems import ROUTER, entry, finish
from tests.train.runs import COMMON, train
from train.analysed import analysis_folder
from train.analyses import run_analysis, see
from train.build import build

LAYERS = ["blocks.0.0", "blocks.1.0", "blocks.2.0", "blocks.3.1", "blocks.4"]
CONDITIONS = ["Identity", "Invert"]
QUICK = {"compositions": CONDITIONS, "images": 40, "train_images": 60, "tolerance": 0.1}
IDENTITY = COMMON | {"method": "Identity", "lr": 0.05, "epochs": 1}


@pytest.fixture
def finished(small_runs):
    """A run of SmallNet with an epoch of training."""
    return train(IDENTITY)


def cells(rows):
    return {(row.metric, row.layer, row.split, row.composition): row.value for row in rows}


def analysed(experiment, options):
    run_analysis(experiment, "probes", options, quiet=True)
    return read_table(analysis_folder(experiment, "probes", options))


def features_by_hand(found, system, split, condition, images, side=None):
    """The outputs of SmallNet's layers, pooled to `side`, by name."""
    x, outputs = inputs(found, split, condition, images), {}
    with torch.no_grad():
        for number, block in enumerate(system.network.blocks):
            for name, part in [("", block)] if isinstance(block, torch.nn.Linear) else block.named_children():
                x = part(x)
                if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
                    maps = torch.nn.functional.adaptive_avg_pool2d(x, side) if side and x.ndim == 4 else x
                    outputs[".".join(filter(None, ["blocks", str(number), name]))] = maps.flatten(1)
    return outputs


def test_a_table_is_complete_and_every_number_that_of_a_fit_by_hand(finished):
    options = Probes(**QUICK)
    rows = analysed(finished, options)
    found = see(finished, options)
    table = cells(rows)
    assert len(table) == len(rows)
    clean = {}
    expected = {}
    for kind, system in (("trained", found.system), ("untrained", found.untrained())):
        for condition in CONDITIONS:
            given = features_by_hand(found, system, "train", condition, 60, 4)
            tested = features_by_hand(found, system, "test", condition, 40, 4)
            labels, test_labels = found.pictures.labels("train", condition, 60), found.pictures.labels("test", condition, 40)
            for layer in LAYERS:
                probe = fit(given[layer].clone(), labels, 10, 1.0, tolerance=0.1)
                test = (layer, "test", condition)
                on_train = (layer, "train", condition)
                if kind == "trained":
                    clean.setdefault(layer, probe)
                    expected["probe_accuracy_4x4", *test] = clean[layer].accuracy(tested[layer], test_labels)
                word, prefix = {"trained": ("own", "probe"), "untrained": ("untrained", "untrained_probe")}[kind]
                expected[f"probe_accuracy_{word}_4x4", *test] = probe.accuracy(tested[layer], test_labels)
                expected[f"{prefix}_fit_accuracy_4x4", *on_train] = probe.fitted_accuracy
                expected[f"{prefix}_gap_4x4", *on_train] = probe.gap / probe.objective
                expected[f"{prefix}_iterations_4x4", *on_train] = probe.iterations
    assert table.keys() == expected.keys()
    for cell, value in expected.items():
        # Features differ in their last bits, as the passes do: an image may go the other way.
        slack = {"gap": 0.1, "ions": 10}.get(cell[0].split("_")[-2][-4:], 1.1 / 40)
        assert table[cell] == pytest.approx(value, abs=slack), cell
    # Layers in the order of the forward pass, conditions in theirs.
    order = [(row.composition, row.layer) for row in rows if row.metric == "probe_accuracy_4x4"]
    assert order == [(condition, layer) for condition in CONDITIONS for layer in LAYERS]
    assert all(row.value <= 0.1 for row in rows if "gap" in row.metric)
    # A trained network's last layers tell more than those of the network before, and clean probes are at home on clean images.
    assert table["probe_accuracy_4x4", "blocks.4", "test", "Identity"] > table["probe_accuracy_4x4", "blocks.4", "test", "Invert"]
    for layer in LAYERS:
        assert table["probe_accuracy_4x4", layer, "test", "Identity"] == table["probe_accuracy_own_4x4", layer, "test", "Identity"]


def test_groups_that_a_tiny_memory_makes_give_the_same(finished, tmp_path, monkeypatch):
    passes = []
    whole_extract = probes.extract
    monkeypatch.setattr(probes, "extract", lambda *arguments: passes.append(len(arguments[2])) or whole_extract(*arguments))
    tables = {}
    for memory, most in ((4.0, 5), (1e-6, 1), (4 * 100 * 1500 / 1e9, 3)):
        passes.clear()
        options = Probes(**QUICK, memory=memory)
        (tmp_path / str(memory)).mkdir()
        tables[memory] = run(see(finished, options), options, tmp_path / str(memory))
        assert max(passes) == most
    first, *others = tables.values()
    assert all(other == first for other in others)


def test_groups_hold_no_more_than_fits_and_every_point_once():
    found = [SimpleNamespace(values=values) for values in (10, 20, 5, 100, 1, 1)]
    # 4 bytes for each value of 10 images.
    made = groups(found, 10, 4 * 10 * 30 / 1e9)
    assert [[point.values for point in own] for own in made] == [[10, 20], [5], [100], [1, 1]]


class Killed(Exception):
    """Comes where a process would be killed."""


@pytest.mark.parametrize("at", [1, 4, 9, 17, 24])
def test_a_killed_analysis_ends_with_the_same_table_and_fits_nothing_twice(finished, tmp_path, monkeypatch, at):
    options = Probes(**QUICK, memory=4 * 100 * 1500 / 1e9)
    fits = []
    whole_fit = probes.fit_places
    monkeypatch.setattr(probes, "fit_places", lambda x, point, fit_one: fits.append(point.layer) or whole_fit(x, point, fit_one))
    (tmp_path / "whole").mkdir()
    expected = run(see(finished, options), options, tmp_path / "whole")
    assert not (tmp_path / "whole" / "probes").exists()
    # Two networks under two conditions.
    assert len(fits) == 4 * len(LAYERS)
    ticks = 0

    def tick():
        nonlocal ticks
        ticks += 1
        if ticks == at:
            raise Killed

    folder = tmp_path / "killed"
    folder.mkdir()
    fits.clear()
    with pytest.raises(Killed):
        run(see(finished, options, tick), options, folder)
    kept = [path for path in folder.rglob("*.json")]
    assert not list(folder.rglob(".*.tmp"))
    done = {path: (path.stat().st_mtime_ns, json.loads(path.read_text())) for path in kept}
    before = len(fits)
    assert before < 4 * len(LAYERS)
    written = []
    put = probes.Cache.put

    def noted(self, kind, point, condition, values):
        written.append(self.path(kind, point, condition))
        put(self, kind, point, condition, values)

    monkeypatch.setattr(probes.Cache, "put", noted)
    fits.clear()
    again = run(see(finished, options), options, folder)
    assert again == expected
    # Of groups that are finished nothing is fitted again; in one that is not, all its points.
    trained = [path for path in done if path.name.startswith("trained-Invert")]
    untrained = [path for path in done if path.name.startswith("untrained-Invert")]
    assert len(fits) <= 4 * len(LAYERS) - 2 * len(trained) - 2 * len(untrained)
    assert len(written) == len({*written})
    assert not {*written} & {*done}


def test_a_run_that_was_told_to_stop_goes_on_where_it_was(finished, monkeypatch):
    options = Probes(**QUICK, memory=1e-6)
    calls = 0

    def told(message):
        nonlocal calls
        calls += 1
        if calls == 12:
            raise Interrupted(message)

    monkeypatch.setattr("train.interrupt.stop_if_told", told)
    with pytest.raises(Interrupted, match=r"probes of Identity.*the same command goes on"):
        run_analysis(finished, "probes", options, quiet=True)
    folder = analysis_folder(finished, "probes", options)
    assert not folder.exists()
    assert list(folder.with_name(f"{folder.name}.parts").rglob("trained-*.json"))
    rows = analysed(finished, options)
    assert not folder.with_name(f"{folder.name}.parts").exists()
    assert {path.name for path in folder.iterdir()} == {OPTIONS, TABLE}
    assert cells(rows).keys() == cells(run(see(finished, options), options, folder.parent / "other")).keys()


def test_pixels_are_columns_each_with_a_probe_of_its_own(finished, tmp_path):
    options = Probes(compositions=["Identity"], images=40, train_images=60, pooling="pixel", tolerance=0.1, untrained=False, own=False)
    found = see(finished, options)
    table = cells(run(found, options, tmp_path))
    sides = {"blocks.0.0": 14, "blocks.1.0": 7, "blocks.2.0": 4}
    layers = [f"{layer}@{row},{column}" for layer, side in sides.items() for row in range(side) for column in range(side)]
    assert {layer for _, layer, _, _ in table} == {*layers, "blocks.3.1", "blocks.4"}
    given = features_by_hand(found, found.system, "train", "Identity", 60)
    tested = features_by_hand(found, found.system, "test", "Identity", 40)
    labels, test_labels = found.pictures.labels("train", "Identity", 60), found.pictures.labels("test", "Identity", 40)
    for layer, row, column in (("blocks.1.0", 0, 0), ("blocks.1.0", 2, 5), ("blocks.2.0", 3, 1), ("blocks.0.0", 13, 0)):
        side = sides[layer]
        own, own_tested = (own[layer].unflatten(1, (-1, side, side))[:, :, row, column] for own in (given, tested))
        probe = fit(own.clone().contiguous(), labels, 10, tolerance=0.1)
        name = f"{layer}@{row},{column}"
        assert table["probe_accuracy_pixel", name, "test", "Identity"] == pytest.approx(
            probe.accuracy(own_tested, test_labels), abs=1.1 / 40
        )
        assert table["probe_fit_accuracy_pixel", name, "train", "Identity"] == pytest.approx(probe.fitted_accuracy, abs=1.1 / 60)
    # A corner of a border of zeros tells less than the middle.
    assert (
        table["probe_fit_accuracy_pixel", "blocks.0.0@0,0", "train", "Identity"]
        < table["probe_fit_accuracy_pixel", "blocks.0.0@7,7", "train", "Identity"]
    )


def test_pooling_4_and_1_and_the_whole_map_are_told_apart(tmp_path):
    found = seen(small_convolutions(1))
    options = Probes(pooling=[4, 1, "full"], compositions=["Identity"], own=False, untrained=False, tolerance=0.1)
    made = points(found.system, found, options)
    assert [(point.layer, point.word) for point in made] == [
        (layer, word) for word in ("4x4", "1x1", "full") for layer in ("blocks.0.conv", "blocks.1.conv", "blocks.2.linear", "blocks.3")
    ]
    assert [point.values for point in made] == [96, 128, 12, 10, 6, 8, 12, 10, 294, 128, 12, 10]
    features = extract(found, found.system, made, "test", "Identity", None, "layers")
    taken = {}
    with torch.no_grad(), tapped(found.network, taken.__setitem__):
        found.network(inputs(found))
    for point in made:
        assert features[point].shape == (40, point.values)
        maps = taken[point.layer]
        if maps.ndim == 4 and point.side:
            maps = torch.nn.functional.adaptive_avg_pool2d(maps, point.side)
        torch.testing.assert_close(features[point], maps.flatten(1), rtol=1e-5, atol=1e-6)
    table = cells(run(found, options, tmp_path))
    values = {
        word: [table[f"probe_fit_accuracy_{word}", layer, "train", "Identity"] for layer in ("blocks.0.conv", "blocks.1.conv")]
        for word in ("4x4", "1x1", "full")
    }
    assert values["4x4"] != values["1x1"] != values["full"]
    # What has no map is the same whatever the pooling.
    for layer in ("blocks.2.linear", "blocks.3"):
        assert len({table[f"probe_fit_accuracy_{word}", layer, "train", "Identity"] for word in values}) == 1


@pytest.mark.parametrize(("sides", "side"), [((1, 1), 4), ((2, 2), 4), ((2, 1), 4), ((4, 4), 4), ((7, 9), 4), ((3, 3), 4), ((3, 2), 6)])
def test_a_map_that_is_smaller_is_not_repeated_but_weighed(sides, side):
    """Scalar products of features are those of the pooled, repeated maps; so are penalised linear classifiers."""
    maps = torch.randn(6, 3, *sides, dtype=torch.float64)
    pooled = pool(maps, side)
    repeated = torch.nn.functional.adaptive_avg_pool2d(maps, side).flatten(1)
    torch.testing.assert_close(pooled @ pooled.T, repeated @ repeated.T)
    assert pooled.shape[1] == pooled_size(maps.shape[1:], side) <= repeated.shape[1]
    assert torch.equal(pool(maps, None), maps.flatten(1))
    tokens = torch.randn(2, 5, 4)
    assert torch.equal(pool(tokens, side), tokens.flatten(1))
    assert pooled_size((5, 4), side) == 20


def test_levels_of_a_modular_system_are_what_its_modules_make_of_them(small_runs):
    experiment = finish(build(entry("ModularSystem")))
    options = Probes(at="levels", pooling="full", compositions=["Identity", "Contrast", "Invert-Swirl"], images=20)
    found = see(experiment, options)
    made = points(found.system, found, options)
    assert [point.layer for point in made] == [f"level {number}" for number in range(5)]
    system = found.system
    for condition in found.pictures.conditions:
        features = extract(found, system, made, "test", condition, 20, "levels")
        names = [] if condition == "Identity" else condition.split("-")
        x, changed = inputs(found, "test", condition, 20), []
        with torch.no_grad():
            for number, block in enumerate(system.backbone.blocks):
                for name in names:
                    if system.levels[name] == number:
                        before, x = x, system.modules_of[name](x)
                        changed.append((before - x).abs().max())
                torch.testing.assert_close(features[made[number]], x.flatten(1), rtol=1e-4, atol=1e-5)
                x = block(x)
        assert len(changed) == len(names)
        assert all(difference > 0.01 for difference in changed)


@pytest.mark.parametrize("at", ["layers", "levels"])
@pytest.mark.parametrize("analysis", [run, latents.run], ids=["probes", "latents"])
def test_systems_that_take_images_apart_are_refused_in_one_line(small_runs, tmp_path, at, analysis):
    experiment = finish(build(entry("ModularSystem", **ROUTER)))
    options = {run: Probes, latents.run: Latents}[analysis](at=at, images=100, compositions=["ImpulseNoise"])
    found = see(experiment, options)
    router = found.system.router
    with torch.no_grad():
        # So that it sees each corruption in some of the images.
        router.blocks[-1].bias -= router(inputs(found, "test", "ImpulseNoise", 100)).median(0).values
    with pytest.raises(InputError, match="different ways through the network") as raised:
        analysis(found, options, tmp_path)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("*.h5"))


class Twice(torch.nn.Module):
    """A system that takes a batch that is larger than the first one in two parts."""

    def __init__(self, network, whole):
        super().__init__()
        self.network, self.whole = network, whole

    def forward(self, images_nchw, composition):
        return torch.cat([self.network(part) for part in images_nchw.tensor_split(1 if len(images_nchw) <= self.whole else 2)])


def test_images_that_are_taken_apart_in_a_later_batch_are_noticed(monkeypatch):
    monkeypatch.setattr("analysis.pictures.CHUNK", 7)
    found = seen(small_convolutions())
    sizes = [len(logits) for logits in found.responses(found.system, "test", "Identity", 20)]
    assert sizes == [6, 7, 7]
    own = points(Twice(found.network, 6), found, Probes(images=20))
    with pytest.raises(InputError, match="different ways through the network"):
        extract(found, Twice(found.network, 6), own, "test", "Identity", 20, "layers")
    expected = extract(found, found.system, own, "test", "Identity", 20, "layers")
    for point, features in extract(found, Twice(found.network, 7), own, "test", "Identity", 20, "layers").items():
        assert torch.equal(features, expected[point])


def test_without_own_and_untrained_only_clean_probes_are_fitted(tmp_path):
    network = small_convolutions(2)
    found = seen(network, [("Invert",), ("Contrast",)], untrained=copy.deepcopy(network))
    options = Probes(compositions=["Invert", "Contrast"], own=False, untrained=False, tolerance=0.1)
    rows = run(found, options, tmp_path)
    assert {row.metric for row in rows} == {"probe_accuracy_4x4"}
    assert {row.composition for row in rows} == {"Invert", "Contrast"}
    (tmp_path / "all").mkdir()
    everything = cells(run(found, Probes(compositions=["Invert", "Contrast"], tolerance=0.1), tmp_path / "all"))
    assert all(everything[cell] == value for cell, value in cells(rows).items())
    # The network before its training is here the network itself.
    for (metric, *cell), value in everything.items():
        if metric == "probe_accuracy_own_4x4":
            assert everything["probe_accuracy_untrained_4x4", *cell] == value
