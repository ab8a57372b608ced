"""cifar10: both layouts of the files, what a level costs, and pickles that are refused."""

import math
import os
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
import torch

from flowzoo import build
from flowzoo.bijectors import Compose, Rescale
from flowzoo.config import ConfigError
from flowzoo.data import Splits, configure
from flowzoo.data._augment import augment
from flowzoo.data._pickles import RefusedPickle, read_pickle
from flowzoo.flow import ConditionalFlow
from flowzoo.metrics import Evaluation
from flowzoo.metrics import configure as metric
from flowzoo.seeding import generator


def batch(count=30, seed=0):
    """Labels and images; the first two are black and white."""
    rng = np.random.default_rng(seed)
    images = rng.integers(256, size=(count, 3, 32, 32), dtype=np.uint8)
    images[0], images[1] = 0, 255
    return np.arange(count, dtype=np.uint8) % 10, images


def records(labels, images):
    return np.concatenate([labels[:, None], images.reshape(len(images), -1)], 1).tobytes()


def write(folder, batches=(1, 3)):
    for k in batches:
        (folder / f"data_batch_{k}.bin").write_bytes(records(*batch(seed=k)))
    (folder / "test_batch.bin").write_bytes(records(*batch(12, seed=9)))
    (folder / "batches.meta.txt").write_text("\n".join(f"class{k}" for k in range(10)) + "\n\n")
    return str(folder)


def load(**options):
    return configure("cifar10", options).load()


def test_record_is_a_label_and_three_planes_of_pixels(tmp_path):
    data = load(root=write(tmp_path))
    assert data.x.shape == (72, 3, 32, 32)
    assert data.x.dtype == torch.uint8
    assert data.levels == (0, 1, 256)
    labels, images = batch(seed=3)
    assert np.array_equal(data.x[30:60].numpy(), images)
    assert data.context_index[30:60].tolist() == labels.tolist()
    assert torch.equal(data.context, torch.eye(10))
    assert data.names == ("red", "green", "blue")
    assert data.context_names == tuple(f"class{k}" for k in range(10))


def test_the_batches_that_are_there_are_taken_and_noted(tmp_path):
    data = load(root=write(tmp_path))
    assert data.notes == ("training batches 1, 3 of 5: 60 of 50000 training images",)
    assert data.given_split.tolist() == [0] * 60 + [2] * 12


def test_validation_comes_out_of_training_and_the_test_batch_stays_whole(tmp_path):
    splits = Splits.make(load(root=write(tmp_path)))
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [52, 8, 12]
    assert torch.equal(splits.test.x, torch.from_numpy(batch(12, seed=9)[1]))


def test_bytes_stay_bytes_until_they_are_a_batch(tmp_path):
    train = Splits.make(load(root=write(tmp_path), mirror=False)).train
    assert train.x.dtype == torch.uint8
    x, _ = train.batch(torch.arange(5), generator(0, "noise"))
    assert x.dtype == train.fixed.dtype == torch.float32
    noise = torch.rand(5, 3, 32, 32, generator=generator(0, "noise"))
    assert torch.equal(x, train.x[:5].float() + noise)


def test_limits_take_the_first_images(tmp_path):
    root = write(tmp_path)
    data, every = load(root=root, num_train="40", num_test=2), load(root=root)
    assert data.given_split.tolist() == [0] * 40 + [2] * 2
    assert torch.equal(data.x, every.x[[*range(40), 60, 61]])
    assert torch.equal(data.context_index, every.context_index[[*range(40), 60, 61]])
    with pytest.raises(ConfigError, match="num_test must be at most 12, the images that there are; got 13"):
        load(root=root, num_test=13)


def test_without_classes_it_is_unconditional(tmp_path):
    data = load(root=write(tmp_path), classes=False)
    assert data.context_shape == (0,)
    assert data.context_names == ()
    assert Splits.make(data).maps()[1].describe() == {"kind": "identity"}


def test_class_names_are_the_official_ones_without_their_file(tmp_path):
    root = write(tmp_path)
    (tmp_path / "batches.meta.txt").unlink()
    assert load(root=root).context_names[:3] == ("airplane", "automobile", "bird")
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(ValueError, match=r"meta\.txt: expected the names of 10 classes; got 2"):
        load(root=root)


# -- symmetry


def test_training_images_are_mirrored_left_to_right_and_never_turned_over(tmp_path):
    assert load(root=write(tmp_path)).augment == ("mirror",)
    assert load(root=str(tmp_path), mirror="false").augment == ()
    x = torch.arange(24.0).reshape(1, 2, 3, 4).expand(2000, 2, 3, 4)
    moved = augment(x, ("mirror",), generator(0, "noise"))
    same = (moved == x).flatten(1).all(1)
    assert float(same.float().mean()) == pytest.approx(0.5, abs=5 * 0.5 / 2000**0.5)
    assert torch.equal(moved[~same], x[~same].flip(-1))


# -- levels and maps


@pytest.mark.parametrize("n_bits", [1, 5, 8])
def test_fewer_bits_are_the_higher_bits(tmp_path, n_bits):
    data = load(root=write(tmp_path), n_bits=str(n_bits))
    expected = np.floor(batch(seed=1)[1] / 2 ** (8 - n_bits))
    assert np.array_equal(data.x[:30].numpy(), expected)
    assert data.levels == (0, 1, 2**n_bits)
    assert (f"{n_bits} bits: byte / {2 ** (8 - n_bits)}, rounded down" in data.notes) == (n_bits < 8)


class Uniform(ConditionalFlow):
    """The exact density of U(0, high) in each dimension, written in network units: its latent is normal."""

    def __init__(self, high, *args, **maps):
        super().__init__(*args, **maps)
        self.high = high

    def _to_latent(self, u, c):
        x, log_slope = self.x_map.to_data(u)
        z = torch.special.ndtri((x / self.high).clamp(1e-12, 1 - 1e-12))
        # dz/dx = 1 / (high * normal density at z)
        log_slope = log_slope - math.log(self.high) + 0.5 * z.square() + 0.5 * math.log(2 * math.pi)
        return z, log_slope.flatten(1).sum(1)


@pytest.mark.parametrize("transform", ["logit", "scale"])
@pytest.mark.parametrize("n_bits", [5, 8])
def test_uniform_density_costs_as_many_bits_as_there_are_through_the_map(tmp_path, n_bits, transform):
    data = load(root=write(tmp_path), n_bits=n_bits, transform=transform)
    splits = Splits.make(data)
    x_map, context_map = splits.maps()
    maps = {"x_map": x_map, "context_map": context_map}
    flow = Uniform(2**n_bits, data.event_shape, data.context_shape, **maps).double()
    test = splits.test
    scores = flow.log_prob(test.fixed.double(), test.context.double())
    evaluation = Evaluation(
        x=test.fixed,
        contexts=test.contexts,
        context_index=test.context_index,
        groups=test.groups,
        scale=torch.ones(1),
        log_prob=flow.log_prob,
        scores=scores,
        samples=None,
        samples_missing="",
        true_scores=None,
        step=test.levels.step,
        generator=generator(0, "metrics"),
    )
    assert metric("nll", {})(evaluation)["bits_per_dim"] == pytest.approx(n_bits, abs=1e-6)


@pytest.mark.parametrize("transform", ["logit", "scale"])
@pytest.mark.parametrize("name", ["gaussian", "cglow"])
def test_black_and_white_images_have_a_finite_score(tmp_path, name, transform):
    data = load(root=write(tmp_path), transform=transform, num_train=40)
    splits = Splits.make(data)
    x_map, context_map = splits.maps()
    flow = build(
        name,
        data.event_shape,
        data.context_shape,
        x_map=x_map,
        context_map=context_map,
        generator=generator(0, "init"),
    )
    train = splits.train
    flow.initialize(*train.batch(torch.arange(len(train)), generator(0, "noise")))
    assert splits.test.x[0].max() == 0
    assert splits.test.x[1].min() == 255
    with torch.no_grad():
        scores = flow.log_prob(splits.test.fixed[:2], splits.test.context[:2])
        ends = flow.log_prob(torch.stack([torch.zeros(3, 32, 32), torch.full((3, 32, 32), 256.0)]), torch.eye(10)[:2])
    assert bool(scores.isfinite().all() & ends.isfinite().all())


def test_alpha_is_that_of_the_logit_and_scale_is_the_line_of_glow(tmp_path):
    root = write(tmp_path)
    x_map = Splits.make(load(root=root, alpha="0.01")).maps()[0]
    assert isinstance(x_map, Compose)
    assert x_map.maps[0].describe() == {"kind": "logit", "low": 0.0, "high": 256.0, "alpha": 0.01}
    x_map = Splits.make(load(root=root, n_bits=5, transform="scale")).maps()[0]
    assert isinstance(x_map, Rescale)
    assert x_map.to_latent(torch.tensor([0.0, 16.0, 32.0]))[0].tolist() == [-0.5, 0, 0.5]


def test_what_is_not_an_option_value_is_refused(tmp_path):
    root = write(tmp_path)
    for options, reason in (
        ({"n_bits": 9}, "n_bits must be from 1 to 8; got 9"),
        ({"n_bits": 0}, "n_bits must be from 1 to 8; got 0"),
        ({"alpha": 0}, "alpha must be between 0 and 0.5, ends excluded; got 0"),
        ({"transform": "affine"}, "transform"),
        ({"num_train": 0}, "num_train must be at least 1, or null for all; got 0"),
        ({"transform": "scale", "alpha": 0.01}, r"alpha is of transform=logit.*leave it out \(got 0.01\)"),
    ):
        with pytest.raises(ConfigError, match=reason):
            load(root=root, **options)


# -- files that do not fit


@pytest.mark.parametrize("content", [b"", b"\x01" * 3072, b"\x01" * (3073 * 2 + 1)])
def test_torn_and_empty_batches_are_refused(tmp_path, content):
    root = write(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"data_batch_3\.bin: expected records of 3073 bytes.*got {len(content)} bytes"
    ):
        load(root=root)


def test_label_beyond_nine_is_refused_with_its_record(tmp_path):
    root = write(tmp_path)
    labels, images = batch(12)
    labels[[4, 7]] = 10, 200
    (tmp_path / "test_batch.bin").write_bytes(records(labels, images))
    with pytest.raises(ValueError, match=r"test_batch\.bin: labels must be 0 to 9; record 4 has 10 \(2 in all\)"):
        load(root=root)


def test_missing_folders_and_batches_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cifar10 needs `root`"):
        load()
    with pytest.raises(FileNotFoundError, match="no such folder: nowhere"):
        load(root="nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no data_batch_1\.bin .* unpacked"):
        load(root=str(tmp_path))
    write(tmp_path)
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"has training batches and no test_batch\.bin"):
        load(root=str(tmp_path))


# -- the layout for Python


def write_python(folder, protocol=2, **changes):
    for name, seed in (("data_batch_1", 1), ("data_batch_3", 3), ("test_batch", 9)):
        labels, images = batch(12 if seed == 9 else 30, seed)
        content = {b"batch_label": b"training", b"labels": labels.tolist(), b"data": images.reshape(len(images), -1)}
        content |= {key.encode(): value for key, value in changes.items()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return str(folder)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_both_layouts_hold_the_same_images(tmp_path, protocol):
    (tmp_path / "bin").mkdir()
    (tmp_path / "py").mkdir()
    binary = load(root=write(tmp_path / "bin"))
    python = load(root=write_python(tmp_path / "py", protocol))
    assert torch.equal(python.x, binary.x)
    assert torch.equal(python.context_index, binary.context_index)
    assert python.notes == binary.notes


def test_arrays_of_older_numpy_and_python_2_are_read(tmp_path):
    # As the official files are: text of Python 2 (here by its opcodes), and numpy's inner module by its old name.
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    old = pickle.dumps(array, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in old
    assert "BINSTRING" not in {op.name for op, _, _ in pickletools.genops(old)}
    (tmp_path / "a").write_bytes(b"\x80\x02}U\x04data" + old[2:-1] + b"s.")
    found = read_pickle(tmp_path / "a")
    assert np.array_equal(found[b"data"], array)


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_that_calls_the_shell_is_refused_by_name_and_calls_nothing(tmp_path, protocol):
    root, mark = write_python(tmp_path), tmp_path / "called"
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps(Calls(os.system, f"touch {mark}"), protocol))
    with pytest.raises(
        RefusedPickle, match=r"data_batch_3: asks for (posix|nt)\.system, which plain arrays do not need"
    ):
        load(root=root)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (eval, ("1",)),
        (getattr, ("text", "join")),
        (np.load, ("x.npy",)),
        (Path, ("x",)),
    ],
)
def test_everything_but_arrays_is_refused(tmp_path, function, arguments):
    (tmp_path / "a").write_bytes(pickle.dumps({b"data": Calls(function, *arguments)}))
    with pytest.raises(RefusedPickle, match=r"a: asks for .*, which plain arrays do not need, and is not read"):
        read_pickle(tmp_path / "a")


def test_codecs_other_than_that_of_bytes_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")
    with pytest.raises(RefusedPickle, match="asks for the codec 'rot13'"):
        read_pickle(tmp_path / "a")


class Built(Calls):
    """Pickles to a call of a function, and a state that is set on what it returns."""

    def __init__(self, function, arguments, state):
        self.reduced = function, arguments, state


RECONSTRUCT = np.zeros(0).__reduce__()[0]
OBJECTS = (3, "|", None, None, None, -1, -1, 63)  # the state of dtype("O")


def array_of(state):
    return Built(RECONSTRUCT, (np.ndarray, (0,), b"b"), state)


ATTACKS = {
    "bytes read as pointers": (Calls(np.ndarray, (2,), "O", b"A" * 16), r"calls numpy\.ndarray"),
    "the class called for memory as it is": (Calls(np.ndarray, (9999,), np.dtype("u1")), r"calls numpy\.ndarray"),
    "strides of zero": (Calls(np.ndarray, (1 << 40,), np.dtype("u1"), b"a", 0, (0,)), r"calls numpy\.ndarray"),
    "objects by name": (Calls(np.dtype, "O"), "asks for the dtype 'O'; plain arrays are of b1, i1"),
    "fields of objects": (Calls(np.dtype, [("a", "O")]), "asks for the dtype"),
    "objects by state": (Built(np.dtype, ("u1", False, True), OBJECTS), "has a dtype in a state"),
    "fields by state": (
        Built(np.dtype, ("u1",), (3, "|", None, ("a",), {"a": (np.dtype("u8"), 0)}, 8, 1, 16)),
        "has a dtype in a state",
    ),
    "too few bytes": (array_of((1, (2**40,), np.dtype("u1"), False, b"a")), "and 1 bytes; it needs 1099511627776"),
    "a negative size": (array_of((1, (-1, -1), np.dtype("u1"), False, b"a")), "has an array in a state"),
    "a list of objects": (array_of((1, (1,), np.dtype("u1"), False, ["a"])), "has an array in a state"),
    "a dtype by name": (array_of((1, (1,), "O", False, b"A" * 8)), "has an array in a state"),
    "no content": (Calls(RECONSTRUCT, np.ndarray, (2,), b"O"), "has an array without its content"),
    "another class": (Calls(RECONSTRUCT, np.dtype, (2,), b"O"), "makes an array of another class"),
    "an array as a key": ({}, "not a readable pickle"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_arrays_that_would_corrupt_memory_are_refused_in_one_line(tmp_path, attack):
    content, reason = ATTACKS[attack]
    text = pickle.dumps({b"data": [content]}, protocol=2)
    if attack == "an array as a key":
        text = b"\x80\x02}" + pickle.dumps(np.zeros(2), 2)[2:-1] + b"K\x01s."
    (tmp_path / "a").write_bytes(text)
    with pytest.raises(ValueError, match=rf"a: .*{reason}") as error:
        read_pickle(tmp_path / "a")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        b"cnumpy\nndarray\n",
        b"cnumpy\ndtype\n",
        b"cnumpy.core.multiarray\n_reconstruct\n",
        b"c_codecs\nencode\n",
    ],
)
@pytest.mark.parametrize("state", [b"N}U\x08__call__K\x01s\x86", b"}U\x01aK\x01s"])
def test_a_pickle_sets_nothing_on_what_it_is_given(tmp_path, name, state):
    # BUILD with a state for slots sets attributes; one for a dictionary fills it.
    (tmp_path / "a").write_bytes(b"\x80\x02" + name + state + b"b.")
    with pytest.raises(ValueError, match="a: not a readable pickle"):
        read_pickle(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"\x80\x02" + name + b")\x81.")  # NEWOBJ, of a type alone
    with pytest.raises(ValueError, match="a: not a readable pickle"):
        read_pickle(tmp_path / "a")


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "<i8", ">i4", "f4", ">f8"])
def test_numbers_of_any_kind_and_order_come_back(tmp_path, protocol, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    row = [array, np.asfortranarray(array), array[0, 0, 0:1]]
    row += [row, (array, row)]  # in itself, and twice
    (tmp_path / "a").write_bytes(pickle.dumps(row, protocol))
    found = read_pickle(tmp_path / "a")
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(found[:3], row[:3], strict=True))
    assert found[1].flags.f_contiguous
    assert found[3] is found
    assert np.array_equal(found[4][0], array)
    assert found[4][1] is found
    found[0][:] = 0  # of its own


def test_a_name_with_line_breaks_is_refused_in_one_line(tmp_path):
    (tmp_path / "a").write_bytes(b"\x80\x04\x8c\x02a\n\x8c\x03b\nc\x93.")
    with pytest.raises(RefusedPickle, match=r"a: asks for a \.b c, which plain arrays do not need"):
        read_pickle(tmp_path / "a")


@pytest.mark.parametrize("cut", [0, 1, 40, 3000, -1])
def test_torn_pickles_are_refused_in_one_line(tmp_path, cut):
    root = write_python(tmp_path)
    file = tmp_path / "data_batch_1"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match="data_batch_1: not a readable pickle") as error:
        load(root=root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": None}, r"'data' must be bytes of shape \(n, 3072\); got NoneType"),
        ({"data": np.zeros((12, 3072))}, r"got float64 \(12, 3072\)"),
        ({"data": np.zeros((12, 3, 32, 32), dtype=np.uint8)}, "must be bytes of shape"),
        ({"data": np.zeros((0, 3072), dtype=np.uint8)}, "must be bytes of shape"),
        ({"labels": None}, "'labels' must be a list of whole numbers|one label for each"),
        ({"labels": ["a"] * 30}, "'labels' must be a list of whole numbers; got list"),
        ({"labels": [0, 1]}, "expected one label for each of 30 images; got 2"),
        ({"labels": [-1] * 30}, "labels must be 0 to 9; record 0 has -1"),
    ],
)
def test_batches_that_hold_something_else_are_refused(tmp_path, changes, reason):
    with pytest.raises(ValueError, match=reason):
        load(root=write_python(tmp_path, 4, **changes))


def test_pickle_that_is_no_dictionary_is_refused(tmp_path):
    root = write_python(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="test_batch: 'data' must be bytes"):
        load(root=root)


# -- real data


@pytest.fixture
def real():
    if "FLOWZOO_DATA" not in os.environ:
        pytest.skip("FLOWZOO_DATA is not set: no real images")
    return Path(os.environ["FLOWZOO_DATA"])


def test_official_files_are_read(real):
    data = load(root=str(real / "cifar-10-batches-bin"))
    assert data.x.shape == (21_000, 3, 32, 32)
    assert data.notes == ("training batches 1, 2 of 5: 20000 of 50000 training images",)
    assert torch.bincount(data.given_split).tolist() == [20_000, 0, 1000]
    assert data.context_names[3] == "cat"
    # Natural images: neighbours in a row are alike, as they would not be if the planes were read in another order.
    x = data.x[:500].double()
    neighbours = torch.corrcoef(torch.stack([x[..., :-1].flatten(), x[..., 1:].flatten()]))[0, 1]
    assert float(neighbours) > 0.9
