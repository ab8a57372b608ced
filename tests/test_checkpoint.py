"""A checkpoint is whole, or an error in one line: never a wrong number, never code that is run."""

import json
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

import flowzoo
from flowzoo.bijectors import Columns, Compose, Log, Logit, Standardize, Whiten
from flowzoo.checkpoint import CheckpointError, load_tensors, read_meta, save_tensors
from flowzoo.flow import ConditionalFlow
from flowzoo.seeding import generator


def flow_of(dtype=torch.float32, model="maf", **maps):
    flow = flowzoo.build(model, (3,), (2,), num_steps=1, hidden_features=8, generator=generator(0, "init"), **maps)
    return flow.to(dtype).eval()


def inputs(dtype=torch.float32, count=20):
    source = generator(1, "x")
    return torch.randn(count, 3, generator=source, dtype=dtype), torch.randn(count, 2, generator=source, dtype=dtype)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "flow.safetensors"


# -- what is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", ["maf", "cglow", "galacticflow"])
def test_loaded_flow_scores_and_draws_the_same_bits(path, model, dtype):
    flow = flow_of(dtype, model)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(2, "w"), dtype=dtype))
    flowzoo.save(flow, path)
    again = flowzoo.load(path)
    x, c = inputs(dtype)
    assert torch.equal(again.log_prob(x, c), flow.log_prob(x, c))
    assert torch.equal(*(f.sample(c, generator=generator(3, "z")) for f in (flow, again)))
    assert again.recipe == flow.recipe
    assert not again.training
    assert all(p.dtype == dtype for p in again.parameters())


def test_maps_travel_with_the_flow(path):
    x, c = inputs(count=400)
    x_map = Compose(Columns([0], Log()), Columns([1], Logit(-9, 9)), Standardize((3,)))
    context_map = Whiten((2,))
    x[:, 0].exp_()
    x_map.fit(x)
    context_map.fit(c)
    flow = flow_of(x_map=x_map, context_map=context_map)
    flowzoo.save(flow, path)
    assert torch.equal(flowzoo.load(path).log_prob(x, c), flow.log_prob(x, c))


def test_metadata_is_kept_beside_the_versions(path):
    flowzoo.save(flow_of(), path, data={"name": "digits"}, seed=3)
    meta = read_meta(path)
    assert (meta["data"], meta["seed"], meta["format"]) == ({"name": "digits"}, 3, 1)
    assert meta["versions"]["torch"] == torch.__version__
    assert meta["flow"]["model"] == "maf"


def test_tensors_of_any_kind_come_back_the_same(path):
    shared = torch.arange(6.0)
    tensors = {
        "scalar": torch.tensor(3),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "half": torch.randn(3).bfloat16(),
        "transposed": shared.reshape(2, 3).T,
        "shared": shared,
    }
    save_tensors(path, tensors, {"a": [1, 2.5, None], "b": "é"})
    found, meta = load_tensors(path)
    assert meta == {"a": [1, 2.5, None], "b": "é"}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_flow_that_was_not_built_by_name_cannot_be_saved(path):
    with pytest.raises(ValueError, match=r"only flows made by flowzoo\.build can be saved"):
        flowzoo.save(ConditionalFlow((2,)), path)
    assert not path.exists()


def test_nothing_is_unpickled(path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    flowzoo.save(flow_of(), path)
    for name in ("Unpickler", "_Unpickler", "load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    x, c = inputs()
    assert bool(torch.isfinite(flowzoo.load(path).log_prob(x, c)).all())


def test_loading_leaves_the_process_wide_generator_alone(path):
    flowzoo.save(flow_of(), path)
    before = torch.get_rng_state()
    flowzoo.load(path)
    assert torch.equal(torch.get_rng_state(), before)


# -- damage ---------------------------------------------------------------------------------------------------------


def one_line_error(path):
    with pytest.raises(CheckpointError) as caught:
        flowzoo.load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert path.name in text
    return text


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a small checkpoint."""
    path = tmp_path_factory.mktemp("whole") / "flow.safetensors"
    flowzoo.save(flowzoo.build("gaussian", (1,), (1,)), path)
    return path.read_bytes()


def test_any_truncation_is_noticed(whole, path):
    lengths = {0, 1, 7, 8, 9, len(whole) - 1, *range(0, len(whole), 53)}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        one_line_error(path)


def test_any_trailing_byte_is_noticed(whole, path):
    path.write_bytes(whole + b"\0")
    one_line_error(path)


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_gives_a_wrong_number(whole, path, bit):
    # every byte of the length, the header and the tensors, one bit of eight each time
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError) as caught:
            load_tensors(path)
        assert "\n" not in str(caught.value), position


def test_random_rubbish_is_not_a_checkpoint(path):
    source = generator(0, "rubbish")
    for length in (0, 3, 8, 100, 5000):
        path.write_bytes(bytes(torch.randint(256, (length,), generator=source).tolist()))
        one_line_error(path)


def test_pickle_is_not_a_checkpoint(path):
    torch.save({"a": torch.zeros(3)}, path)
    assert "damaged or not a checkpoint" in one_line_error(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors_are_told_apart(path, metadata):
    save_file({"weight": torch.zeros(3)}, path, metadata=metadata)
    assert one_line_error(path).endswith("a safetensors file, but not one of flowzoo's")


def test_header_without_a_checksum_is_refused(path):
    save_file({"weight": torch.zeros(3)}, path, metadata={"flowzoo": json.dumps({"format": 1})})
    assert "its checksum does not match" in one_line_error(path)


def test_tensor_moved_to_another_name_is_noticed(whole, path):
    # the bytes are intact and only the header has been edited: two tensors of one shape change places
    (size,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + size])
    header["bias"], header["weight"] = (
        {**header["bias"], "data_offsets": header["weight"]["data_offsets"]},
        {**header["weight"], "data_offsets": header["bias"]["data_offsets"]},
    )
    text = json.dumps(header).encode()
    payload = torch.arange(3.0).numpy().tobytes()  # three numbers that differ, so that a swap is one
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)
    assert "its checksum does not match" in one_line_error(path)


def test_missing_file_is_said_to_be_missing(path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*flow\.safetensors"):
        flowzoo.load(path)
    with pytest.raises(FileNotFoundError):
        flowzoo.load(path / "below")


def test_folder_is_told_apart_and_its_files_are_suggested(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder; there is no flow in it; give the file of one"):
        flowzoo.load(tmp_path)
    for name in ("checkpoints/digits.maf.0", "checkpoints/digits.nsf.0.state", "cells/digits.maf.0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        flowzoo.save(flow_of(), tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError) as caught:
        flowzoo.load(tmp_path)
    flow = tmp_path / "checkpoints" / "digits.maf.0.safetensors"
    assert str(caught.value) == f"{tmp_path} is a folder; give one file, such as {flow}"
    flowzoo.load(flow)


def altered(path, **changes):
    """A whole checkpoint whose description says something else."""
    flowzoo.save(flow_of(), path)
    tensors, meta = load_tensors(path)
    meta["flow"] |= changes
    save_tensors(path, tensors, meta)


def test_weights_of_another_architecture_are_refused_in_one_line(path):
    altered(path, config={"num_steps": 1, "hidden_features": 16})
    text = one_line_error(path)
    assert "its weights do not fit the 'maf' of this version" in text
    altered(path, config={"num_steps": 2, "hidden_features": 8})
    one_line_error(path)


def test_checkpoint_of_another_format_is_refused(path):
    flowzoo.save(flow_of(), path)
    tensors, meta = load_tensors(path)
    save_tensors(path, tensors, {**meta, "format": 2})
    assert one_line_error(path).endswith("holds no flow of format 1")


def test_name_that_a_checkpoint_uses_is_refused(path):
    with pytest.raises(ValueError, match="a checkpoint has a 'format' of its own; give that by another name"):
        flowzoo.save(flow_of(), path, format="csv")
    assert not path.exists()


def test_flow_with_a_network_that_nobody_can_build_is_refused(path):
    flow = flow_of()
    flow.attach(torch.nn.Linear(9, flow.context_shape.numel()), (9,))
    with pytest.raises(ValueError, match="there is no recipe to build this one again"):
        flowzoo.save(flow, path)


def test_model_that_this_version_does_not_have_is_named(path):
    altered(path, model="glowworm")
    with pytest.raises(ValueError, match="unknown model 'glowworm'"):
        flowzoo.load(path)


# -- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_write_that_fails_midway_leaves_the_old_flow_and_no_litter(path, monkeypatch, function):
    flow = flow_of()
    flowzoo.save(flow, path)
    before = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    with torch.no_grad():
        next(flow.parameters()).add_(1)
    with monkeypatch.context() as patched:
        patched.setattr(os, function, fail)
        with pytest.raises(OSError, match="No space left"):
            flowzoo.save(flow, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_flow_on_the_path_of_another_replaces_it(path):
    flowzoo.save(flow_of(), path)
    flowzoo.save(flow_of(model="nice"), path)
    assert flowzoo.load(path).recipe["model"] == "nice"


def test_what_json_cannot_hold_is_refused_before_anything_is_written(path):
    with pytest.raises(TypeError):
        flowzoo.save(flow_of(), path, data=object())
    assert list(path.parent.iterdir()) == []


def test_file_that_is_replaced_while_it_is_read_is_a_damaged_one(tmp_path, monkeypatch):
    def smaller(path, framework):
        raise RuntimeError(f"file <{path}> size <16> is smaller than the required mapping size <24>")

    (tmp_path / "a.safetensors").touch()
    monkeypatch.setattr("safetensors.safe_open", smaller)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: damaged or not a checkpoint \(file .* is smaller than"):
        load_tensors(tmp_path / "a.safetensors")
