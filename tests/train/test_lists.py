"""Lists: how YAML is read, what is refused and where it says it stands, and the order of a plan."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import InputError
from train.lists import parse, plan, ranges, read, read_overrides, select

SYSTEM = """
- {dataset: 0, method: ModularSystem, seed: 3, backbone: {lr: 0.1}, module: {level: auto, lr: 1e-2, weight: 1}}
- {dataset: 0, method: Identity, seed: 3, lr: 1e-1, tags: [mine]}
- {dataset: 0, method: CrossEntropy, seed: 3, lr: 1e-1}
"""


def write(tmp_path, text):
    path = tmp_path / "list.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "value"), [("1e-2", 0.01), ("1E5", 1e5), ("-2e+3", -2000.0), ("1.", 1.0), (".5", 0.5), ("3", 3), ("1e", "1e"), ("e1", "e1")]
)
def test_numbers_are_what_a_user_means(text, value):
    assert parse(text) == value
    assert type(parse(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be a YAML list of experiments.*holds nothing"),
        ("[]", "holds nothing"),
        ("dataset: 0", "holds a dict"),
        ("just words", "holds a str"),
        ("- {dataset: 0, method: 0, lr: 0.1}\n- {dataset: 0, method: 0, lr: x}", "entry 1: lr: must be a number, got 'x'"),
        ("- {dataset: 0, dataset: 1}", "line 1: key 'dataset' appears twice"),
        ("- !!python/object/apply:os.system ['true']", "line 1: could not determine a constructor"),
        ("- !mine {dataset: 0}", "line 1: could not determine a constructor"),
        ("- {dataset: 0", "line [12]: "),
        ("- &a [*a]", "entry 0: must be a mapping"),
        ("- *nobody", "line 1: found undefined alias"),
        ("- {[1, 2]: 3}", "line 1: "),
        ("- {dataset: 0, method: 0, lr: .nan}", "entry 0: lr: .*finite"),
        ("\x00", "list.yaml: "),
    ],
)  # fmt: skip
def test_a_bad_list_is_refused_in_one_line(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=words) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_list_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "nothing.yaml")
    with pytest.raises(InputError, match="Is a directory"):
        read(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "binary.yaml")


def test_a_plan_has_every_experiment_once_after_its_prerequisites(tmp_path):
    entries = read(write(tmp_path, SYSTEM))
    planned = plan(entries)
    names = [entry.experiment.method for entry in planned]
    assert names == ["Identity", *["Module"] * 6, "ModularSystem", "CrossEntropy"]
    assert [entry.index for entry in planned] == [1, *[None] * 6, 0, 2]
    assert planned[0].experiment.tags == ("mine",)
    seen = set()
    for entry in planned:
        assert {part.hash for part in entry.experiment.requires()} <= seen
        seen.add(entry.experiment.hash)


def test_overrides_reach_nested_keys(tmp_path):
    overrides = read_overrides(["--module.lr=0.5", "--seed=9"])
    system = read(write(tmp_path, SYSTEM.splitlines()[1]), overrides)[0].experiment
    assert (system.module.lr, system.seed, system.module.seed, system.backbone.lr) == (0.5, 9, 9, 0.1)


@pytest.mark.parametrize("argument", ["--lr", "lr=1", "-lr=1", "--lr=[", "--=1", "extra"])
def test_bad_overrides_are_refused(argument):
    with pytest.raises(InputError, match=r"argument|override"):
        read_overrides([argument])


def test_an_override_of_a_key_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="entry 0: speed: unknown key"):
        read(write(tmp_path, SYSTEM), {"speed": 1})
    with pytest.raises(InputError, match="entry 0: seed: has no key 'x' to override"):
        read(write(tmp_path, SYSTEM), {"seed.x": 1})


@pytest.mark.parametrize(("indices", "expected"), [(None, [0, 1, 2]), ("1", [1]), ("0-1,2", [0, 1, 2]), ("2,0", [2, 0]), ("1,1", [1])])
def test_index_chooses(tmp_path, indices, expected):
    assert [entry.index for entry in read(write(tmp_path, SYSTEM), indices=indices)] == expected


@pytest.mark.parametrize("indices", ["3", "0-3", "2-1", "-1", "x", "", "1-", "0,,1"])
def test_index_refuses_what_is_not_there(tmp_path, indices):
    with pytest.raises(InputError, match="--index"):
        read(write(tmp_path, SYSTEM), indices=indices)


def test_an_override_concerns_the_chosen_entries_alone(tmp_path):
    path = write(tmp_path, SYSTEM)
    assert read(path, {"lr": 0.5}, "1,2")[1].experiment.lr == 0.5
    assert read(path, {"module.lr": 0.5}, "0")[0].experiment.module.lr == 0.5
    with pytest.raises(
        InputError, match=r"entry 0: lr: unknown key for ModularSystem.*; an override is for every entry, unless --index names"
    ):
        read(path, {"lr": 0.5})


@given(st.sets(st.integers(0, 40), min_size=1))
def test_ranges_are_what_index_takes(indices):
    words = ranges(indices)
    assert sorted(select("list.yaml", 41, words)) == sorted(indices)
    first = [index for index in indices if index - 1 not in indices]
    assert len(words.split(",")) == len(first)
