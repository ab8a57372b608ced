import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from flowzoo import cli
from flowzoo.autoencoder import AutoencoderConfig, AutoencoderError, load_autoencoder, make_autoencoder
from flowzoo.checkpoint import load_tensors
from flowzoo.config import ConfigError
from flowzoo.data import Data, Splits
from flowzoo.data._latents import read_latents
from flowzoo.harness import BenchConfig
from flowzoo.harness._reconstruction import Components, errors
from flowzoo.harness.embed import embed, embed_with
from flowzoo.seeding import generator

TINY = AutoencoderConfig(latents=2, base=4, cap=4, steps=4, batch_size=8, evaluate_every=2)
NAMES = [f"galaxy {i}" for i in range(12)]


def images(**declared: Any) -> Data:
    """Twelve galaxies of three views, out of order."""
    x = torch.randn(36, 2, 8, 8, generator=generator(0, "images"))
    groups = torch.arange(36) % 12
    return Data(x, groups=groups, **{"group_names": NAMES, "names": ("HI", "gas"), **declared})


def run(data: Data, out: Path, folds: int = 0, config: AutoencoderConfig = TINY, **options: Any) -> pd.DataFrame:
    embed("maps of mine", {}, config, BenchConfig(folds=folds, device="cpu"), out, given=data, **options)
    return pd.read_csv(out)


def of_galaxies(network: Any, data: Data) -> Tensor:
    """Mean latents, galaxy after galaxy."""
    found = network.encode(data.x).double()
    assert data.groups is not None
    return torch.stack([found[data.groups == group].mean(0) for group in range(12)])


def values(table: pd.DataFrame) -> Tensor:
    return torch.from_numpy(table[["latent_0", "latent_1"]].to_numpy())


def test_table_has_a_row_for_each_galaxy_and_fold_with_the_part_of_its_split(tmp_path: Path) -> None:
    data = images()
    table = run(data, tmp_path / "latents.csv", folds=3)
    assert list(table.columns) == ["id", "fold", "part", "latent_0", "latent_1"]
    assert table["id"].tolist() == NAMES * 3
    assert table["fold"].tolist() == [0] * 12 + [1] * 12 + [2] * 12
    for fold in range(3):
        splits = Splits.make(data, fold=(fold, 3))
        own = table[table["fold"] == fold]
        for name, part in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
            assert own["id"][own["part"] == name].tolist() == [NAMES[g] for g in torch.unique(part.groups)]
    # every galaxy is tested once
    assert sorted(table["id"][table["part"] == "test"]) == sorted(NAMES)


def test_latent_of_a_galaxy_is_the_mean_over_its_images_or_the_first(tmp_path: Path) -> None:
    data = images()
    table = run(data, tmp_path / "mean.csv")
    network, _ = load_autoencoder(tmp_path / "mean.fold0.safetensors")
    assert torch.allclose(values(table), of_galaxies(network, data), atol=1e-12)
    table = run(data, tmp_path / "first.csv", view="first")
    assert torch.equal(values(table), network.encode(data.x)[:12].double())


def test_saved_autoencoder_gives_the_table_again_and_knows_whom_it_saw(tmp_path: Path) -> None:
    data = images()
    table = run(data, tmp_path / "latents.csv", folds=2)
    for fold in range(2):
        embed_with(
            tmp_path / f"latents.fold{fold}.safetensors",
            "mine",
            {},
            BenchConfig(),
            tmp_path / f"{fold}.csv",
            given=data,
        )
        again = pd.read_csv(tmp_path / f"{fold}.csv")
        own = table[table["fold"] == fold].reset_index(drop=True)
        assert again.drop(columns="fold").equals(own.drop(columns="fold"))
    others = replace(images(), group_names=[*NAMES[:6], *(f"new {i}" for i in range(6))])
    embed_with(tmp_path / "latents.fold1.safetensors", "mine", {}, BenchConfig(), tmp_path / "new.csv", given=others)
    again = pd.read_csv(tmp_path / "new.csv")
    assert again["part"][:6].tolist() == own["part"][:6].tolist()
    assert set(again["part"][6:]) == {"test"}


def test_galaxies_without_names_are_known_by_their_images(tmp_path: Path) -> None:
    data = images(group_names=())
    table = run(data, tmp_path / "latents.csv")
    assert table["id"].tolist() == list(range(12))
    shuffled = replace(data, groups=11 - data.groups)  # type: ignore[operator]
    path, out = tmp_path / "latents.fold0.safetensors", tmp_path / "new.csv"
    done = embed_with(path, "mine", {}, BenchConfig(), out, given=shuffled)
    assert pd.read_csv(out)["part"].tolist() == table["part"].tolist()[::-1]
    assert (done.recognised, done.galaxies) == (12, 12)
    with pytest.raises(ConfigError, match=r"12 of 12 galaxies of mine are those of .*; leave out --new"):
        embed_with(path, "mine", {}, BenchConfig(), tmp_path / "newer.csv", given=data, new=True)


def test_galaxies_are_known_by_their_names_however_these_are_written(tmp_path: Path) -> None:
    table = run(images(group_names=[str(i) for i in range(12)]), tmp_path / "latents.csv")
    path, out = tmp_path / "latents.fold0.safetensors", tmp_path / "new.csv"
    done = embed_with(path, "mine", {}, BenchConfig(), out, given=images(group_names=[f"0{i}.0" for i in range(12)]))
    assert done.recognised == 12
    assert pd.read_csv(out)["part"].tolist() == table["part"].tolist()


def test_galaxies_that_are_not_known_by_their_images_are_test_only_if_said_to_be_new(tmp_path: Path) -> None:
    data = images(group_names=())
    run(data, tmp_path / "latents.csv")
    path, out = tmp_path / "latents.fold0.safetensors", tmp_path / "new.csv"
    noisy = replace(data, x=data.x + 1e-3)  # the same galaxies, with other noise
    part = replace(data, x=torch.where((data.groups == 3)[:, None, None, None], noisy.x, data.x))  # type: ignore[index]
    for other, count in ((noisy, 0), (part, 11), (replace(data, group_names=NAMES), 0)):
        with pytest.raises(ConfigError, match=f"knows {count} of 12 galaxies .*, or --new if none was") as caught:
            embed_with(path, "mine", {}, BenchConfig(), out, given=other)
        assert "\n" not in str(caught.value)
        assert not out.exists()
    done = embed_with(path, "mine", {"noise": 1, "root": "b"}, BenchConfig(), out, given=noisy, new=True)
    assert set(pd.read_csv(out)["part"]) == {"test"}
    assert done[1:] == (0, 12, ["name was 'maps of mine', is 'mine'", "noise was None, is 1"])


def test_table_is_one_that_a_catalogue_reads(tmp_path: Path) -> None:
    table = run(images(), tmp_path / "latents.csv", folds=3)
    read = read_latents(str(tmp_path / "latents.csv"), [(name, "a file") for name in reversed(NAMES)])
    assert torch.equal(torch.from_numpy(read.vectors[1]), values(table[table["fold"] == 1]).flip(0))
    assert int((read.part == 2).sum()) == 12


def test_same_command_writes_the_same(tmp_path: Path) -> None:
    contents: list[dict[str, Any]] = []
    for i in range(2):
        run(images(augment=("flip",)), tmp_path / str(i) / "latents.csv", folds=2, seed=3)
        found: dict[str, Any] = {path.name: path.read_bytes() for path in (tmp_path / str(i)).iterdir()}
        for name in sorted(found):
            if name.endswith(".safetensors"):  # whose header is in no fixed order
                tensors, meta = load_tensors(tmp_path / str(i) / name)
                found[name] = ({key: tensor.tolist() for key, tensor in tensors.items()}, meta)
        about = json.loads(found["latents.json"])
        assert all(fold.pop("seconds") > 0 for fold in about["folds"])
        contents.append({**found, "latents.json": about})
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == [
        "latents.csv",
        "latents.fold0.safetensors",
        "latents.fold1.safetensors",
        "latents.json",
        "latents.reconstruction.png",
        "latents.traversal.png",
    ]


@pytest.mark.parametrize("augment", [(), ("flip",)])
def test_components_are_those_of_a_singular_value_decomposition(augment: tuple[str, ...]) -> None:
    # Four directions that flips leave alone, of falling variance, and a little noise.
    source = generator(0, "components")
    patterns = torch.randn(4, 1, 8, 8, generator=source)
    patterns = patterns + patterns.flip(-1)
    patterns = patterns + patterns.flip(-2)
    factors = torch.randn(400, 4, generator=source) * torch.tensor([4.0, 3.0, 2.0, 1.0])
    x = torch.einsum("nk,kchw->nchw", factors, patterns)
    splits = Splits.make(Data(x, augment=augment), checked=True)
    network = make_autoencoder(splits, TINY, 0)
    u, held = (network.standard(part.x).flatten(1).double() for part in (splits.train, splits.test))
    mean = u.mean(0)
    axes = torch.linalg.svd(u - mean, full_matrices=False)[2][:2]
    rest = (held - mean) - (held - mean) @ axes.T @ axes
    own = errors(network, splits, 0)["test"]
    assert own.pca_mse == pytest.approx(float(rest.square().mean()), rel=1e-4)
    assert own.pca_unexplained == pytest.approx(float(rest.square().sum() / (held - mean).square().sum()), rel=1e-4)
    components = Components.fit(network, splits.train, 0)
    assert torch.allclose(components.axes.T @ components.axes, torch.eye(2), atol=1e-5)


def test_errors_are_of_the_reconstructions_and_joined_over_the_folds(tmp_path: Path) -> None:
    data = images()
    run(data, tmp_path / "latents.csv", folds=2)
    about = json.loads((tmp_path / "latents.json").read_text())
    total, spread = 0.0, 0.0
    for fold, entry in enumerate(about["folds"]):
        network, meta = load_autoencoder(tmp_path / f"latents.fold{fold}.safetensors")
        splits = Splits.make(data, fold=(fold, 2))
        assert meta["split"] == entry["split"] == splits.hash
        u, mean = network.standard(splits.test.x), network.standard(splits.train.x).mean(0)
        again = network.standard(network.decode(network.encode(splits.test.x)))
        wrong, away = float((u - again).double().square().sum()), float((u - mean).double().square().sum())
        assert entry["errors"]["test"]["mse"] == pytest.approx(wrong / u.numel(), rel=1e-4)
        assert entry["errors"]["test"]["unexplained"] == pytest.approx(wrong / away, rel=1e-4)
        total, spread = total + wrong, spread + away
    assert about["test"]["mse"] == pytest.approx(total / data.x.numel(), rel=1e-4)
    assert about["test"]["unexplained"] == pytest.approx(total / spread, rel=1e-4)


def test_what_is_there_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    out = tmp_path / "latents.csv"
    run(images(), out, folds=3)
    (tmp_path / "latents.fold7.safetensors.bak").touch()
    before = out.read_bytes()
    with pytest.raises(ConfigError, match=r"latents.csv is there already; give --overwrite, or another --out"):
        run(images(), out)
    assert out.read_bytes() == before
    assert len(run(images(), out, overwrite=True)) == 12
    assert sorted(path.name for path in tmp_path.glob("*.safetensors*")) == [
        "latents.fold0.safetensors",
        "latents.fold7.safetensors.bak",
    ]


def test_autoencoders_of_a_table_that_was_renamed_are_kept(tmp_path: Path) -> None:
    run(images(), tmp_path / "latents.csv", folds=2)
    for path in [*tmp_path.glob("*.png"), tmp_path / "latents.csv", tmp_path / "latents.json"]:
        path.rename(path.with_name(f"old {path.name}"))
    before = (tmp_path / "latents.fold1.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"latents.fold0.safetensors is there already; give --overwrite"):
        run(images(), tmp_path / "latents.csv")
    assert (tmp_path / "latents.fold1.safetensors").read_bytes() == before


def test_run_that_ended_early_leaves_no_table_and_can_be_repeated(tmp_path: Path) -> None:
    def stop(result: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(images(), tmp_path / "latents.csv", folds=2, on_fold=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["latents.fold0.safetensors.part"]
    assert len(run(images(), tmp_path / "latents.csv", folds=2)) == 24


def test_empty_pixels_are_no_fault_of_images_that_need_no_density(tmp_path: Path) -> None:
    data = images()
    assert len(run(replace(data, x=data.x.clamp_min(0)), tmp_path / "latents.csv")) == 12


def _broken() -> Data:
    x = images().x.clone()
    x[29, 0, 3, 3] = torch.nan
    return replace(images(), x=x)


@pytest.mark.parametrize(
    ("make", "folds", "words"),
    [
        (lambda: Data(torch.randn(20, 2)), 0, r"takes images \(C, H, H\); 'maps of mine' has 20 events \(2,\)"),
        (lambda: Data(torch.randn(20, 1, 8, 4)), 0, r"must be square, \(C, H, H\); got \(1, 8, 4\)"),
        (lambda: Data(torch.randn(20, 1, 9, 9)), 0, "9 x 9 pixels halve 0 times .* multiple of 2"),
        (lambda: Data(torch.randn(20, 1, 8, 8), groups=torch.zeros(20).long()), 0, "at least 3 groups; the data has 1"),
        (images, 13, "12 groups can be cut into 2 to 12 folds"),
        (_broken, 0, "maps of mine: image 29, of galaxy 'galaxy 5', is not finite"),
        (lambda: images(group_names=["a"] * 12), 0, "two galaxies are called 'a'"),
        (lambda: images(group_names=["7", " 07", *NAMES[2:]]), 0, "two galaxies are called ' 07'"),
        (lambda: Data(torch.randn(3, 1, 8, 8)), 0, "maps of mine: fold 0 has 1 training images, all equal"),
        (lambda: replace(images(), x=torch.zeros(36, 2, 8, 8)), 0, "maps of mine: .* constant"),
    ],
)
def test_images_that_cannot_be_embedded_are_refused_in_one_line(
    tmp_path: Path, make: Callable[[], Data], folds: int, words: str
) -> None:
    with pytest.raises((ConfigError, AutoencoderError), match=words) as caught:
        run(make(), tmp_path / "latents.csv", folds=folds)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_loss_that_is_not_finite_names_its_fold(tmp_path: Path) -> None:
    with pytest.raises(AutoencoderError, match="maps of mine, fold 0: the error was not finite at step"):
        run(images(), tmp_path / "latents.csv", config=replace(TINY, lr=1e30, clip=0.0))


def test_out_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    for out, words in (
        (tmp_path / "latents.h5", "must be the .csv file"),
        (tmp_path / "file" / "latents.csv", "cannot write to"),
        (tmp_path / "folder.csv", "is there already|is a folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(images(), out)


def test_images_of_another_kind_are_not_encoded(tmp_path: Path) -> None:
    run(images(), tmp_path / "latents.csv")
    path, out = tmp_path / "latents.fold0.safetensors", tmp_path / "new.csv"
    for other, words in (
        (Data(torch.randn(12, 1, 8, 8)), r"is of images \(2, 8, 8\); those of mine are \(1, 8, 8\)"),
        (images(names=("HI", "stars")), r"is of fields \('HI', 'gas'\); those of mine are \('HI', 'stars'\)"),
    ):
        with pytest.raises(ConfigError, match=words):
            embed_with(path, "mine", {}, BenchConfig(), out, given=other)
    assert not out.exists()


def test_command_trains_encodes_and_says_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["flowzoo", "embed", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), *capsys.readouterr()

    tiny = ["--data", "digits", "--steps", "3", "--latents", "2", "--set", "embed.base=2", "--device", "cpu"]
    status, out, error = command(*tiny, "--out", "latents.csv")
    assert status == 0
    assert error == "The autoencoder is no better than principal components: more --steps, or another embed.lr.\n"
    assert "took all 3 steps" in out
    assert "by principal components" in out
    assert "latents.json, latents.reconstruction.png" in out
    table = pd.read_csv("latents.csv")
    assert len(table) == 1797
    assert json.loads(Path("latents.json").read_text())["embed"]["base"] == 2
    status, out, _ = command("--data", "digits", "--load", "latents.fold0.safetensors", "--out", "again.csv")
    assert status == 0
    assert values(pd.read_csv("again.csv")).equal(values(table))
    assert "1797 of 1797 galaxies recognised" in out
    for extra, words in (
        (["--set", "embed.latent=3"], "embed has no option 'latent': did you mean 'latents'?"),
        (["--set", "train.lr=3"], "trained by the options of embed"),
        (["--view", "best"], "--view is mean or first"),
        (["--folds", "1"], "folds must be 2 or more"),
        (["--load", "latents.fold0.safetensors"], "--load trains nothing: leave out"),
        (["--new"], "--new is of galaxies that --load encodes"),
        (["--data", "digits,two_moons"], "embed takes one dataset; --data names 2"),
        ([], "latents.csv is there already"),
    ):
        status, _, error = command(*tiny, "--out", "latents.csv", *extra)
        assert status == 2
        assert words in error
        assert len(error.splitlines()) == 1
