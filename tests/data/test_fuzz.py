"""Damaged files of every loader: a clear error or the right data. The full count is `benchmarks/chaos.py loaders`."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from flowzoo.config import ConfigError
from flowzoo.data import Data, Splits, configure
from flowzoo.data._numpy_files import load_npy
from flowzoo.data._readers import open_table

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_loader_refuses_a_bad_file_by_name_or_loads_the_right_data():
    # In a process of its own, whose children may crash, and run out of the memory that they are given.
    found = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "chaos.py"), "loaders", "--short"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    rows = [line.split(" | ") for line in found.stdout.splitlines() if line.startswith("| loaders")]
    assert len(rows) >= 20
    for _, what, tried, refused, _, _, undetectable, faults, note in rows:
        assert int(faults) == 0
        assert int(refused) > int(tried) / 3, what
        assert "no checksum" in note or int(undetectable) == 0, what


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00v\x00" + text.encode()


def test_header_that_asks_for_terabytes_is_refused_before_there_is_room_for_them(tmp_path):
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header("(1000000000000,)") + np.ones(4).tobytes())
    with (
        open_table(str(path)) as table,
        pytest.raises(ValueError, match=r"t.npz: 'a' cannot be read \(its header says"),
    ):
        table.columns(["a"])


def test_member_that_the_list_has_lost_is_missed(tmp_path):
    content = io.BytesIO()
    np.savez(content, a=np.ones(3), b=np.ones(3))
    damaged = bytearray(content.getvalue())
    entry = damaged.index(b"PK\x01\x02")
    damaged[entry + 33] = 1  # the comment of the first member now swallows the second
    (tmp_path / "t.npz").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"t.npz: not a readable .npz file"), open_table(str(tmp_path / "t.npz")):
        pass


@pytest.mark.parametrize(
    "text", ["{'descr': (", "{'descr': '<f8', 'fortran_order': False, 'shape': (3,", "\0" * 20, "{"]
)
def test_header_that_is_no_header_is_an_error_of_one_line(tmp_path, text):
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00v\x00" + text.ljust(117).encode() + b"\n" + np.ones(3).tobytes())
    with pytest.raises(ValueError, match=r"a.npy: not a readable .npy file") as caught:
        load_npy(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "words"), [(b"", "it is empty"), (b"\x80\x04N.", "it does not begin as one")])
def test_pickle_is_not_said_to_be_loadable(tmp_path, content, words):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        load_npy(tmp_path / "a.npy")
    assert "allow_pickle" not in str(caught.value)


def test_damaged_member_names_file_and_column(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, a=np.arange(50.0), b=np.arange(50.0))
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t.npz: 'a' cannot be read \(Bad CRC-32"):
        configure("table", {"path": str(path), "x": "a,b"}).load()


def test_score_that_is_no_share_is_refused(tmp_path):
    np.savez(tmp_path / "two_moons.npz", observation=np.ones((2, 2)), reference_posterior=np.ones((2, 5, 2)))
    (tmp_path / "published_c2st.csv").write_text("task,num_simulations,algorithm,C2ST\ntwo_moons,100,NPE,nan\n")
    data = configure("sbibm", {"simulations": 100, "tests": 10, "references": str(tmp_path)}).load()
    with pytest.raises(ConfigError, match=r"published_c2st.csv: needs .* got nan"):
        data.reference_posteriors()


def test_images_may_be_all_that_a_context_has(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "stars").mkdir()
    for i in range(6):
        np.savez(tmp_path / "stars" / f"{i}.npz", pos=rng.normal(size=(20, 3)))
    np.save(tmp_path / "images.npy", rng.uniform(1, 2, (6, 4, 4)))
    options = {"path": str(tmp_path / "stars"), "x": "pos", "images": str(tmp_path / "images.npy")}
    data = configure("catalogue", options).load()
    assert isinstance(data, Data)
    splits = Splits.make(data, seed=0)
    _, context_map = splits.maps()
    u, _ = context_map.to_latent(splits.train.contexts)
    assert u.shape[1] == 16
    assert torch.isfinite(u).all()
