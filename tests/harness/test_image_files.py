"""``flowzoo sample`` and ``density`` of flows over images, and of contexts that are images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

import flowzoo
from flowzoo import checkpoint
from flowzoo.bijectors import Standardize
from flowzoo.config import ConfigError
from flowzoo.flow import ConditionalFlow
from flowzoo.harness import _image_files, drawing
from flowzoo.harness.drawing import draws, sample_catalogue
from flowzoo.harness.plan import Cell
from flowzoo.harness.scoring import score_file
from flowzoo.harness.single import fit_one
from flowzoo.seeding import generator

EVENT, NAMES = (2, 4, 4), ["Omega_m", "sigma_8"]
NOTES = ["HI: log10(map + 1000) + N(0, 0.05 dex)"]
COLUMNS = {
    "names": ["log10 HI", "log10 Mgas"],
    "units": ["dex", "dex"],
    "context_names": NAMES,
    "context_units": ["", "Mpc"],
    "notes": NOTES,
}
BLOCKS = [8, 8, 16, 32, 64]


def built(name: str, event: tuple[int, ...], context: tuple[int, ...], **options: Any) -> ConditionalFlow:
    x = Standardize(event)
    x.mean.fill_(18.0)
    flow = flowzoo.build(name, event, context, x_map=x, generator=torch.Generator().manual_seed(0), **options)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=noise)
    return flow.eval()


@pytest.fixture
def flow(tmp_path: Path) -> ConditionalFlow:
    """Two-channel maps given two parameters."""
    made = built("maf", EVENT, (2,), num_steps=2, hidden_features=16)
    checkpoint.save(made, tmp_path / "flow.safetensors", columns=COLUMNS)
    frame = pd.DataFrame(
        {"sigma_8": [0.8, 0.9, 0.7], "id": ["a", "b", "c"], "Omega_m": [0.3, 0.2, 0.4], "n": [9, 0, 70]}
    )
    frame.to_csv(tmp_path / "params.csv", index=False)
    return made


@pytest.fixture
def image_given_image(tmp_path: Path) -> ConditionalFlow:
    """A map given a map, and a file of three of these."""
    made = built("cglow", (1, 4, 4), (1, 4, 4), num_levels=1, num_steps=1)
    checkpoint.save(made, tmp_path / "flow.safetensors", columns={"names": ["HI"], "context_names": ["Mcdm"]})
    images = np.random.default_rng(0).normal(size=(3, 1, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "images.npz", context=images, id=[4, 7, 9])
    return made


def read(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return dict(archive)
    with h5py.File(path) as file:
        return {k: v.asstr()[:] if v.dtype.kind in "SO" else v[:] for k, v in file.items()}


def drawn(folder: Path, name: str = "out.h5", **options: Any) -> dict[str, Any]:
    given = {"galaxies": folder / "params.csv", **options}
    if not {"n", "count"} & given.keys() and given["galaxies"]:
        given["n"] = 20
    sample_catalogue(folder / "flow.safetensors", folder / name, **given)
    return read(folder / name)


def scored(folder: Path, file: str = "out.h5", **options: Any) -> np.ndarray:
    score_file(folder / "flow.safetensors", folder / file, folder / "density.csv", overwrite=True, **options)
    return pd.read_csv(folder / "density.csv")["log_prob"].to_numpy()


def expected(flow: ConditionalFlow, context: torch.Tensor, count: int, galaxy: str | int, seed: int = 0) -> np.ndarray:
    """Python's own draws, from the noise that the documentation names."""
    parts = [
        flow.sample(context, (b,), generator=generator(seed, "sample", str(galaxy), k)) for k, b in enumerate(BLOCKS)
    ]
    return torch.cat(parts)[:count].numpy()


# -- the draws


@pytest.mark.parametrize("ending", [".h5", ".npz"])
def test_images_are_the_draws_of_the_flow_in_python(tmp_path: Path, flow: ConditionalFlow, ending: str) -> None:
    found = drawn(tmp_path, f"out{ending}", count="n", seed=5)
    assert found["x"].shape == (79, *EVENT)
    assert found["x"].dtype == np.float32
    for galaxy, theta, count in (("a", (0.3, 0.8), 9), ("c", (0.4, 0.7), 70)):
        own = found["id"] == galaxy
        assert np.array_equal(found["x"][own], expected(flow, torch.tensor(theta), count, galaxy, 5))
        for name, value in zip(NAMES, theta, strict=True):
            assert np.array_equal(found[name][own], np.full(count, value, np.float32))


def test_file_does_not_depend_on_the_chunk(
    tmp_path: Path, flow: ConditionalFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drawn(tmp_path, "whole.npz")
    for chunk in (1, 7, 19, 1000):
        parts = drawn(tmp_path, f"{chunk}.h5", chunk=chunk)
        assert set(parts) == set(whole) - {"flowzoo"}
        assert all(np.array_equal(parts[name], whole[name]) for name in parts)
    monkeypatch.setattr(_image_files, "NUMBERS", 100)  # three maps are held at a time
    few = drawn(tmp_path, "few.h5")
    assert all(np.array_equal(few[name], whole[name]) for name in few)


def test_blocks_of_large_images_are_small_and_fewer_are_the_first_of_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "NUMBERS", 32 * 32)  # 32 events of 2 x 4 x 4
    small = built("maf", EVENT, (1,), num_steps=1, hidden_features=8)
    parts = list(draws(small, torch.tensor([0.5]), 200, seed=0, galaxy="a"))
    assert [len(part) for part in parts] == [8, 8, 16, 32, 32, 32, 32, 32, 8]
    more = torch.cat(parts)
    for count in (1, 8, 9, 17, 100):
        assert torch.equal(torch.cat(list(draws(small, torch.tensor([0.5]), count, seed=0, galaxy="a"))), more[:count])


def test_file_says_what_its_numbers_are(tmp_path: Path, flow: ConditionalFlow) -> None:
    about = json.loads(str(drawn(tmp_path, "out.npz", seed=3)["flowzoo"]))
    assert about == {
        "flow": "flow.safetensors", "model": "maf", "seed": 3, "version": flowzoo.__version__,
        "context": {name: name for name in NAMES},
        "x": {"names": COLUMNS["names"], "units": ["dex", "dex"], "notes": NOTES},
    }  # fmt: skip
    drawn(tmp_path, "out.h5", seed=3)
    with h5py.File(tmp_path / "out.h5") as file:
        assert json.loads(file.attrs["flowzoo"]) == about
        assert (file["x"].attrs["units"], file["sigma_8"].attrs["units"]) == ("dex", "Mpc")


def test_what_is_broken_off_leaves_no_file(
    tmp_path: Path, flow: ConditionalFlow, broken_off: Callable[..., list[int]]
) -> None:
    calls = broken_off(flow)
    before = sorted(tmp_path.iterdir())
    for ending in (".h5", ".npz"):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            drawn(tmp_path, f"out{ending}", chunk=4)
        assert sorted(tmp_path.iterdir()) == before


def test_lost_images_are_counted_once_each(
    tmp_path: Path, flow: ConditionalFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    inverse = type(flow)._to_data

    def fails(self: ConditionalFlow, z: torch.Tensor, c: torch.Tensor) -> Any:
        u, log_det = inverse(self, z, c)
        return torch.where(z[:, :1, :1, :1] > 1, torch.nan, u), log_det

    monkeypatch.setattr(type(flow), "_to_data", fails)
    lines: list[str] = []
    x = drawn(tmp_path, warn=lines.append)["x"]
    lost = int(np.isnan(x).any((1, 2, 3)).sum())
    assert 0 < lost < 30
    assert lines[0].startswith(f"{lost} of 60 draws have no finite value")
    scores = scored(tmp_path, warn=lines.append)
    assert int(np.isnan(scores).sum()) == lost
    assert "hold a value that is not finite" in lines[1]


# -- their density


@pytest.mark.parametrize("ending", [".h5", ".npz"])
def test_density_of_drawn_images_is_that_of_the_flow(
    tmp_path: Path, flow: ConditionalFlow, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = drawn(tmp_path, f"out{ending}")
    theta = torch.from_numpy(np.stack([found[name] for name in NAMES], 1))
    with torch.no_grad():
        exact = flow.log_prob(torch.from_numpy(found["x"]), theta).numpy()
    scores = scored(tmp_path, f"out{ending}")
    assert np.allclose(scores, exact, rtol=1e-5, atol=1e-4)
    assert np.array_equal(scored(tmp_path, f"out{ending}", galaxies=tmp_path / "params.csv"), scores)  # by id
    assert np.array_equal(scored(tmp_path, f"out{ending}", chunk=7), scores)
    monkeypatch.setattr(_image_files, "NUMBERS", 100)
    assert np.allclose(scored(tmp_path, f"out{ending}"), exact, rtol=1e-5, atol=1e-4)


def test_one_channel_may_go_without_its_axis(tmp_path: Path) -> None:
    made = built("maf", (1, 4, 4), (0,), num_steps=1, hidden_features=8)
    checkpoint.save(made, tmp_path / "flow.safetensors")
    maps = made.sample(None, 5, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "maps.npz", x=maps[:, 0])
    with torch.no_grad():
        exact = made.log_prob(maps).numpy()
    assert np.allclose(scored(tmp_path, "maps.npz"), exact, rtol=1e-5, atol=1e-4)


def test_images_of_integers_are_scored_with_a_warning(tmp_path: Path, flow: ConditionalFlow) -> None:
    np.savez(tmp_path / "maps.npz", x=np.full((2, *EVENT), 18), Omega_m=[0.3, 0.3], sigma_8=[0.8, 0.8])
    lines: list[str] = []
    assert np.isfinite(scored(tmp_path, "maps.npz", warn=lines.append)).all()
    assert [("integers" in line, "\n" in line) for line in lines] == [(True, False)]


# -- contexts that are images


def test_map_given_map_is_drawn_and_scored(tmp_path: Path, image_given_image: ConditionalFlow) -> None:
    contexts = tmp_path / "images.npz"
    found = drawn(tmp_path, galaxies=contexts, n=10)
    assert set(found) == {"id", "x"}
    images = torch.from_numpy(read(contexts)["context"])
    for k, galaxy in enumerate((4, 7, 9)):
        assert np.array_equal(found["x"][found["id"] == galaxy], expected(image_given_image, images[k], 10, galaxy))
    given = images.repeat_interleave(10, 0)
    with torch.no_grad():
        exact = image_given_image.log_prob(torch.from_numpy(found["x"]), given).numpy()
    assert np.allclose(scored(tmp_path, galaxies=contexts), exact, rtol=1e-5, atol=1e-4)
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["x"], file["context"] = found["x"], given.numpy()
    assert np.allclose(scored(tmp_path, "own.h5"), exact, rtol=1e-5, atol=1e-4)


def test_vector_given_map_is_drawn_and_scored(tmp_path: Path) -> None:
    made = built("maf", (3,), (1, 4, 4), num_steps=1, hidden_features=8)
    checkpoint.save(made, tmp_path / "flow.safetensors")
    images = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "images.npz", context=images)
    found = drawn(tmp_path, galaxies=tmp_path / "images.npz", n=10)
    x = np.stack([found[f"x{k}"] for k in range(3)], 1)
    first = made.sample(images[1], (64,), generator=generator(0, "sample", "1", 0))[:10]
    assert np.array_equal(x[10:], first.numpy())
    with torch.no_grad():
        exact = made.log_prob(torch.from_numpy(x), images.repeat_interleave(10, 0)).numpy()
    assert np.allclose(scored(tmp_path, galaxies=tmp_path / "images.npz"), exact, rtol=1e-5, atol=1e-4)


# -- flows that were trained


def test_digits_of_the_test_part_and_of_chosen_classes(plan: Callable[..., list[Cell]], tmp_path: Path) -> None:
    cell = plan(data="digits")[0]
    fit_one(cell, tmp_path / "flow.safetensors")
    test = cell.source.splits.test
    found = drawn(tmp_path, galaxies=None)
    assert found["x"].shape == (len(test.x), 1, 8, 8)
    classes = np.stack([found[f"digit {k}"] for k in range(10)], 1)
    order = np.argsort(test.groups.numpy())
    assert np.array_equal(classes, test.contexts[test.context_index].numpy()[order])
    one_hot = pd.DataFrame(np.eye(10)[[3, 8]], columns=[f"digit {k}" for k in range(10)])
    one_hot.to_csv(tmp_path / "classes.csv", index=False)
    flow = flowzoo.load(tmp_path / "flow.safetensors")
    found = drawn(tmp_path, "classes.h5", galaxies=tmp_path / "classes.csv")
    assert np.array_equal(found["x"][20:], expected(flow, torch.eye(10)[8], 20, 1))
    pd.DataFrame({"class": [3, 8]}).to_csv(tmp_path / "class.csv", index=False)
    with pytest.raises(ConfigError, match="'class' is not read; give the columns digit 0 to digit 9 of the context"):
        drawn(tmp_path, "class.h5", galaxies=tmp_path / "class.csv")


# -- what is refused, in one line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"name": "out.parquet"},
            r"images are \(2, 4, 4\), .* take \.h5 or \.npz, with an array 'x' \(rows, 2, 4, 4\)",
        ),
        ({"name": "out.csv"}, r"no rows of a table; take \.h5 or \.npz"),
        ({"galaxies": "wrong.csv"}, r"lacks the column sigma_8 \(the context of flow\.safetensors\)"),
        ({"id_column": "x"}, r"lacks the column x \(--id\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    tmp_path: Path, flow: ConditionalFlow, options: dict[str, Any], words: str
) -> None:
    pd.DataFrame({"Omega_m": [0.3]}).to_csv(tmp_path / "wrong.csv", index=False)
    if "galaxies" in options:
        options = {**options, "galaxies": tmp_path / options["galaxies"]}
    with pytest.raises(ConfigError, match=words) as caught:
        drawn(tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.glob("*out*")) == []


@pytest.mark.parametrize(
    ("name", "arrays", "words"),
    [
        ("images.csv", {"context": [1.0]}, r"give --contexts an \.npz or \.h5 with an array 'context' \(rows, 1, "),
        ("images.npz", {"image": np.zeros((2, 1, 4, 4))}, r"lacks the column context \(the context \(1, 4, 4\) of"),
        ("images.npz", {"context": np.zeros((2, 1, 8, 8))}, r"'context' is \(2, 1, 8, 8\); expected an array \(rows"),
        ("images.npz", {"context": np.zeros((0, 1, 4, 4))}, "has no rows"),
        ("images.npz", {"context": np.full((2, 1, 4, 4), np.nan)}, "2 of 2 contexts hold a value that is not finite"),
        ("images.npz", {"context": np.zeros((2, 4, 4)), "id": [1]}, "'id' has 1 rows, 'context' 2"),
        ("images.npz", {"context": np.zeros((2, 4, 4)), "id": [1, 1]}, "id '1' is there 2 times"),
        ("images.npz", {"context": np.full((2, 4, 4), "a")}, "where numbers are needed"),
    ],
)  # fmt: skip
def test_wrong_image_contexts_are_refused(
    tmp_path: Path, image_given_image: ConditionalFlow, name: str, arrays: dict[str, Any], words: str
) -> None:
    if name.endswith(".csv"):
        pd.DataFrame(arrays).to_csv(tmp_path / name, index=False)
    else:
        np.savez(tmp_path / name, **arrays)
    with pytest.raises(ConfigError, match=words) as caught:
        drawn(tmp_path, galaxies=tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".npz", ".h5"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": None}, r"lacks the column x \(the events of flow\.safetensors\)"),
        ({"x": np.zeros((2, 4, 4))}, r"'x' is \(2, 4, 4\); expected an array \(rows, 2, 4, 4\)"),
        ({"x": np.zeros((3, *EVENT))}, r"'Omega_m' has 2 rows, 'x' 3"),
        ({"x": np.zeros((2, *EVENT), complex)}, r"'x' holds complex128, where numbers are needed"),
        ({"sigma_8": None}, r"lacks the column sigma_8 \(the context of .*; or give --contexts\)"),
    ],
)
def test_images_that_cannot_be_scored_are_refused(
    tmp_path: Path, flow: ConditionalFlow, change: dict[str, Any], words: str, ending: str
) -> None:
    sound = {"x": np.zeros((2, *EVENT)), "Omega_m": [0.3, 0.3], "sigma_8": [0.8, 0.8]}
    arrays = {name: value for name, value in {**sound, **change}.items() if value is not None}
    if ending == ".npz":
        np.savez(tmp_path / "maps.npz", **arrays)
    else:
        with h5py.File(tmp_path / "maps.h5", "w") as file:
            file.update(arrays)
    with pytest.raises(ConfigError, match=words) as caught:
        scored(tmp_path, f"maps{ending}")
    assert "\n" not in str(caught.value)


def test_tables_are_no_images(tmp_path: Path, flow: ConditionalFlow) -> None:
    with pytest.raises(ConfigError, match=r"--file .*params\.csv: images are \(2, 4, 4\), .* an array 'x'"):
        scored(tmp_path, "params.csv")


def test_damaged_images_are_refused_by_name(tmp_path: Path, flow: ConditionalFlow) -> None:
    for ending in (".npz", ".h5"):
        drawn(tmp_path, f"out{ending}", n=200)
        path = tmp_path / f"out{ending}"
        raw = bytearray(path.read_bytes())
        middle = len(raw) // 2
        raw[middle : middle + 64] = b"\xff" * 64
        path.write_bytes(raw[: -len(raw) // 4] if ending == ".h5" else raw)
        with pytest.raises(ConfigError, match=path.name) as caught:
            scored(tmp_path, path.name)
        assert "\n" not in str(caught.value)
