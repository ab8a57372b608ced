"""What somebody made to do harm: refused, nothing executed, and no name leads out of the run directory."""

import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowzoo import cli, record
from flowzoo.config import ConfigError
from flowzoo.harness.settings import read
from flowzoo.storage import UnsafeName, inside, plain_name, write_atomic
from flowzoo.tune.tune_config import is_name

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from chaos_parts import hostile

PARTS = st.lists(
    st.sampled_from(["..", ".", "/", "\\", "~", "\0", "a", "é", "-", " ", "\n", "*", "x" * 60]), max_size=6
)
NAMES = st.text(max_size=40) | PARTS.map("".join)
often = settings(max_examples=500, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize("made", [hostile.pickles, hostile.texts, hostile.names])
def test_all_that_is_hostile_is_refused_and_nothing_is_executed(tmp_path, made):
    found = [hostile._outcome(words, attempt, tmp_path) for words, attempt in made(tmp_path / "work")]
    assert len(found) > 20
    assert [words for outcome, words in found if outcome != "refused by name"] == []


def test_what_is_counted_as_hostile_would_be_executed_by_a_reader_that_trusts_it(tmp_path):
    import numpy as np

    list(hostile.pickles(tmp_path / "work"))
    assert not (tmp_path / "executed").exists()
    np.load(tmp_path / "work" / "objects" / "t.npy", allow_pickle=True)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["a bomb of lists", "a bomb of merges", "a list in itself", "a number of base 60"])
def test_yaml_bomb_is_refused_in_little_memory(tmp_path, name):
    path = tmp_path / "bomb.yaml"
    path.write_text(hostile.TEXTS[name].format())
    tracemalloc.start()
    with pytest.raises(ConfigError, match=r"bomb.yaml:\d+: (its aliases|an alias|a number of)"):
        read(path, default_models="maf")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_aliases_that_stand_for_little_are_taken(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("data: digits\nmodels: {maf: &a {num_steps: 3}, nsf: *a}\n")
    assert read(path).models == {"maf": {"num_steps": 3}, "nsf": {"num_steps": 3}}


def test_command_line_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(f"data: !!python/object/apply:os.system ['touch {tmp_path}/executed']\n")
    monkeypatch.setattr(sys, "argv", ["flowzoo", "bench", "--config", str(path), "--models", "maf"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.count("\n") == 1
    assert "only plain YAML is read" in said
    assert not (tmp_path / "executed").exists()


@often
@given(dataset=NAMES, model=NAMES, seed=st.integers(0, 2**63), fold=st.none() | st.integers(0, 99))
def test_file_of_a_cell_is_in_its_folder_or_there_is_none(dataset, model, seed, fold):
    try:
        stem = record.stem(dataset, model, seed, fold)
    except UnsafeName:
        return
    folder = Path("/run/cells")
    for ending in (".json", ".safetensors", ".state.safetensors"):
        path = folder / f"{stem}{ending}"
        assert path.parent == folder
        assert Path(path.resolve()).parent == folder
        assert len(path.name.encode()) < 255
    assert not stem.startswith(".")
    assert not set(stem) & set("/\\*?[]\0\n")


@often
@given(dataset=NAMES, model=NAMES, seed=st.integers(0, 2**63), fold=st.none() | st.integers(0, 99))
def test_two_cells_never_share_a_file(dataset, model, seed, fold):
    cell = {"dataset": dataset, "model": model, "seed": seed, "fold": fold}
    try:
        stem = record.stem(**cell)
    except UnsafeName:
        return
    assert record.from_stem(stem) == cell


@often
@given(name=NAMES | st.text("ab.-_/~ ", max_size=8))
def test_name_of_a_study_is_the_name_of_a_folder_too(name):
    if not is_name(name):
        return
    path = Path("/run/tuning") / name
    assert path.resolve() == path
    assert path.parent == Path("/run/tuning")
    assert not name.startswith(".")


@often
@given(names=st.lists(NAMES, min_size=1, max_size=4))
def test_path_that_is_inside_is_below_the_folder(tmp_path_factory, names):
    folder = tmp_path_factory.getbasetemp() / "inside"
    (folder / "a").mkdir(parents=True, exist_ok=True)
    try:
        path = inside(folder, *names)
    except UnsafeName:
        return
    assert folder.resolve() in path.resolve().parents


@pytest.mark.parametrize("name", ["digits", "hi_sim", "nflows-nsf", "maf-tuned", "my data", "z=0.5", "été", "a.b"])
def test_names_that_people_use_are_taken(name):
    assert plain_name(name, "the dataset") == name


def test_link_is_replaced_and_what_it_leads_to_is_left_alone(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "table.csv").symlink_to(precious)
    write_atomic(tmp_path / "table.csv", b"ours")
    assert precious.read_text() == "mine"
    assert not (tmp_path / "table.csv").is_symlink()


def test_folder_of_records_that_leads_elsewhere_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "cells").symlink_to(tmp_path / "elsewhere")
    made = record.Record(dataset="digits", model="maf", seed=0, hash="a", status="ok")
    with pytest.raises(UnsafeName, match="leads out of"):
        record.save(made, tmp_path / "run" / "cells")
    assert list((tmp_path / "elsewhere").iterdir()) == []
