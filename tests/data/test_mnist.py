"""mnist: idx files as they are and compressed, padding, and files that do not fit."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from flowzoo.config import ConfigError
from flowzoo.data import Splits, configure

NAMES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def idx(array, magic=None):
    head = [0x800 + array.ndim if magic is None else magic, *array.shape]
    return np.array(head, dtype=">u4").tobytes() + array.astype(np.uint8).tobytes()


def digits(count, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
    images[0], images[1] = 0, 255
    return images, np.arange(count) % 10


def write(folder, ending="", **changes):
    """The four files; ``changes`` replaces the bytes of one by the head of its name (``train_images=b""``)."""
    contents = [idx(a) for count, seed in ((40, 0), (12, 1)) for a in digits(count, seed)]
    for name, content in zip(NAMES, contents, strict=True):
        content = changes.get("_".join(name.split("-")[:2]), content)
        file = folder / f"{name}-ubyte{ending}"
        file.write_bytes(gzip.compress(content) if ending else content)
    return str(folder)


def load(**options):
    return configure("mnist", options).load()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_digits_have_their_shapes_levels_classes_and_official_split(tmp_path, ending):
    data = load(root=write(tmp_path, ending))
    assert data.x.shape == (52, 1, 28, 28)
    assert data.x.dtype == torch.uint8
    assert data.levels == (0, 1, 256)
    assert np.array_equal(data.x[:40, 0].numpy(), digits(40, 0)[0])
    assert np.array_equal(data.x[40:, 0].numpy(), digits(12, 1)[0])
    assert data.context_index.tolist() == [*(k % 10 for k in range(40)), *(k % 10 for k in range(12))]
    assert torch.equal(data.context, torch.eye(10))
    assert data.context_names[7] == "digit 7"
    assert data.given_split.tolist() == [0] * 40 + [2] * 12
    assert data.augment == ()


def test_padding_adds_zeros_on_every_side(tmp_path):
    root = write(tmp_path)
    data, plain = load(root=root, pad="2"), load(root=root)
    assert data.event_shape == (1, 32, 32)
    assert torch.equal(data.x[..., 2:-2, 2:-2], plain.x)
    assert int(data.x.sum()) == int(plain.x.sum())
    assert data.notes == ("2 pixels of zeros added on each side",)
    with pytest.raises(ConfigError, match="pad must be from 0 to 28 pixels; got -1"):
        load(root=root, pad=-1)


def test_options_of_byte_images_are_its_own_too(tmp_path):
    data = load(root=write(tmp_path), n_bits=5, alpha=1e-3, classes=False, num_train=20, num_test=3)
    assert len(data) == 23
    assert data.levels == (0, 1, 32)
    assert int(data.x.max()) == 31
    assert data.context_shape == (0,)
    assert data.x_map.maps[0].describe() == {"kind": "logit", "low": 0.0, "high": 32.0, "alpha": 1e-3}
    assert load(root=str(tmp_path), transform="scale").x_map.describe()["kind"] == "rescale"
    with pytest.raises(ConfigError, match="n_bits must be from 1 to 8; got 12"):
        load(root=str(tmp_path), n_bits=12)


def test_border_that_is_always_zero_has_a_finite_map(tmp_path):
    splits = Splits.make(load(root=write(tmp_path), pad=2))
    x_map, _ = splits.maps()
    u, slope = x_map.to_latent(splits.test.fixed)
    assert bool(u.isfinite().all() & slope.isfinite().all())


def test_uncompressed_file_is_read_before_its_compressed_twin(tmp_path):
    write(tmp_path)
    write(tmp_path, ".gz", train_images=b"")
    assert len(load(root=str(tmp_path))) == 52


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train_images": b""}, r"train-images-idx3-ubyte\S*: expected a header of 16 bytes; the file has 0: empty"),
        ({"t10k_labels": b"\0\0\x08"}, r"t10k-labels\S*: expected a header of 8 bytes; the file has 3"),
        ({"train_images": idx(np.zeros((40, 28, 28)))[:-5]}, r"40 x 28 x 28 = 31360 bytes; it has 31355: .*torn"),
        ({"train_images": idx(np.zeros((40, 28, 28))) + b"\0"}, r"= 31360 bytes; it has 31361$"),
        ({"train_images": idx(np.zeros((0, 28, 28)))}, r"0 x 28 x 28 = 0 bytes; it has 0: empty"),
        ({"train_images": idx(np.zeros((40, 28, 28)), 0x802)}, r"expected the magic number 2051 .*; got 2050"),
        ({"train_labels": idx(np.zeros((2, 28, 28)))}, r"expected the magic number 2049 .*; got 2051"),
        ({"train_images": idx(np.zeros((40, 32, 32)))}, r"expected images of 28 x 28; got \(32, 32\)"),
        ({"train_labels": idx(np.zeros(39))}, r"train-labels\S*: expected 40 labels, as many as train-images\S* has"),
        ({"t10k_labels": idx(np.full(12, 17))}, r"t10k-labels\S*: labels must be 0 to 9; label 0 is 17 \(12 in all\)"),
        ({"train_images": np.array([0x803, 2**31, 2**31, 2**31], dtype=">u4").tobytes()}, r"it has 0: empty or torn"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path, ending, changes, reason):
    with pytest.raises(ValueError, match=reason) as error:
        load(root=write(tmp_path, ending, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"\0" * 1000, mtime=0)[:-9], b"\x1f\x8b\x08\0\0\0\0\0\0\0abc"],
    ids=["empty", "no gzip", "cut", "no stream"],
)
def test_damaged_compression_is_refused(tmp_path, content):
    root = write(tmp_path, ".gz")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz: (not a readable \.gz|expected a header)"):
        load(root=root)


def test_missing_folders_and_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="mnist needs `root`"):
        load()
    with pytest.raises(FileNotFoundError, match="no such folder: nowhere"):
        load(root="nowhere")
    root = write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no t10k-labels-idx1-ubyte and no t10k-labels-idx1-ubyte\.gz"):
        load(root=root)


# -- real data


@pytest.fixture
def real():
    if "FLOWZOO_DATA" not in os.environ:
        pytest.skip("FLOWZOO_DATA is not set: no real images")
    return Path(os.environ["FLOWZOO_DATA"])


def test_official_files_are_read(real):
    data = load(root=str(real / "mnist"))
    assert data.x.shape == (70_000, 1, 28, 28)
    assert torch.bincount(data.given_split).tolist() == [60_000, 0, 10_000]
    # The first training digits, and the mean ink that is quoted everywhere (0.1307 of white).
    assert data.context_index[:5].tolist() == [5, 0, 4, 1, 9]
    assert float(data.x[:60_000].float().mean()) / 255 == pytest.approx(0.1307, abs=1e-4)
