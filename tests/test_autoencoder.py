from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import flowzoo
from flowzoo.autoencoder import (
    Autoencoder,
    AutoencoderConfig,
    AutoencoderError,
    halvings,
    load_autoencoder,
    make_autoencoder,
    mse,
    save_autoencoder,
    train_autoencoder,
)
from flowzoo.checkpoint import CheckpointError
from flowzoo.data import Data, Levels, Splits
from flowzoo.seeding import generator

QUICK = AutoencoderConfig(latents=2, base=4, cap=8, steps=20, batch_size=8, evaluate_every=5)


def images(galaxies: int = 20, views: int = 3, side: int = 8, **declared: object) -> Data:
    """Galaxies of one pattern each, seen with a little noise."""
    source = generator(0, "images")
    pattern = torch.randn(galaxies, 1, 1, side, side, generator=source)
    x = pattern + 0.1 * torch.randn(galaxies, views, 1, side, side, generator=source)
    groups = torch.arange(galaxies).repeat_interleave(views)
    return Data(x.flatten(0, 1), groups=groups, **declared)  # type: ignore[arg-type]


def trained(data: Data, config: AutoencoderConfig = QUICK, seed: int = 0) -> tuple[Autoencoder, Splits]:
    splits = Splits.make(data)
    network = make_autoencoder(splits, config, seed)
    train_autoencoder(network, splits, seed=seed, show=False)
    return network, splits


def same(one: Autoencoder, other: Autoencoder) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_published_setting_has_its_92_7_million_parameters() -> None:
    with torch.device("meta"):
        network = Autoencoder((3, 448, 448), AutoencoderConfig(base=64, cap=2048))
        count = sum(p.numel() for p in network.parameters())
        # Convolutions of 4 x 4 from 3 over 64 to 2048 channels, 7 x 7 x 2048 = 100,352 numbers to 16, and back.
        widths = [3, 64, 128, 256, 512, 1024, 2048]
        pairs = list(pairwise(widths))
        down = sum(16 * a * b + b for a, b in pairs) + 100_352 * 16 + 16
        up = sum(16 * a * b + a for a, b in pairs) + 16 * 100_352 + 100_352
        assert count == down + up == 92_714_899
        assert network(torch.empty(2, 3, 448, 448)).shape == (2, 3, 448, 448)


@pytest.mark.parametrize(("side", "count"), [(448, 6), (64, 4), (96, 4), (256, 6), (8, 1), (6, 1), (50, 1), (2, 1)])
def test_side_is_halved_down_to_seven_pixels_or_less_where_it_is_even(side: int, count: int) -> None:
    assert halvings((1, side, side)) == count
    network = Autoencoder((1, side, side), replace(QUICK, base=1))
    assert network(torch.zeros(1, 1, side, side)).shape == (1, 1, side, side)


@pytest.mark.parametrize(
    ("shape", "levels", "words"),
    [
        ((1, 63, 63), None, "63 x 63 pixels halve 0 times and 1 are needed; the side must be a multiple of 2"),
        ((1, 96, 96), 6, "halve 5 times and 6 are needed; the side must be a multiple of 64"),
        ((1, 64, 32), None, r"must be square, \(C, H, H\); got \(1, 64, 32\)"),
        ((4,), None, "must be square"),
    ],
)
def test_images_that_do_not_halve_are_refused(shape: tuple[int, ...], levels: int | None, words: str) -> None:
    with pytest.raises(AutoencoderError, match=words):
        Autoencoder(shape, replace(QUICK, levels=levels))


def test_images_of_one_factor_are_reconstructed_from_one_latent() -> None:
    source = generator(0, "factor")
    factor = torch.randn(300, 1, 1, 1, generator=source)
    pattern, offset = torch.randn(2, 1, 8, 8, generator=source)
    config = AutoencoderConfig(latents=1, base=16, steps=300, lr=5e-3, patience=0)
    network, splits = trained(Data(5 + offset + factor * pattern), config)
    u = network.standard(splits.test.x)
    unexplained = mse(network, splits.test) / float((u - u.mean(0)).square().mean())
    assert unexplained < 1e-3
    # and the latent is the factor, up to a monotone map: no other number was to be found
    order = splits.test.x.flatten(1) @ pattern.flatten()
    latent = network.encode(splits.test.x)[:, 0]
    ranks = torch.stack([order.argsort().argsort(), latent.argsort().argsort()]).double()
    assert abs(float(torch.corrcoef(ranks)[0, 1])) > 0.99


def test_no_test_image_moves_a_weight() -> None:
    data = images()
    network, splits = trained(data)
    changed = data.x.clone()
    changed[torch.isin(data.groups, splits.test.groups)] *= 100  # type: ignore[arg-type]
    again, others = trained(replace(data, x=changed))
    assert torch.equal(others.train.x, splits.train.x)
    assert not torch.equal(others.test.x, splits.test.x)
    assert same(network, again)
    # the fault would show: one training image is enough
    changed = data.x.clone()
    changed[(data.groups == splits.train.groups[0]).nonzero()[0]] += 1
    assert not same(network, trained(replace(data, x=changed))[0])


def test_seed_repeats_bit_for_bit_and_another_one_does_not() -> None:
    data = images(augment=("flip", "quarter_turn"))
    assert same(trained(data, seed=3)[0], trained(data, seed=3)[0])
    assert not same(trained(data, seed=3)[0], trained(data, seed=4)[0])


def test_weights_of_the_best_validation_are_kept() -> None:
    splits = Splits.make(images())
    network = make_autoencoder(splits, replace(QUICK, steps=200, lr=0.02), 0)
    result = train_autoencoder(network, splits, show=False)
    least = min(result.history, key=lambda row: row["validation_mse"])
    assert (result.best_step, result.validation_mse) == (least["step"], least["validation_mse"])
    assert mse(network, splits.validation) == result.validation_mse
    # twenty patterns cannot be told from two numbers on galaxies never seen: it stops where that shows
    assert result.steps < 200
    assert "no better validation" in result.reason


def test_training_images_are_turned_as_the_data_declare() -> None:
    # Bright on the left alone; who has learnt with flips knows the right as well.
    x = torch.zeros(200, 1, 8, 8)
    x[..., :4] = torch.rand(200, 1, 1, 1, generator=generator(0, "bright")) + 1
    errors = []
    for augment in ((), ("mirror",)):
        splits = Splits.make(Data(x, augment=augment), checked=True)
        network = make_autoencoder(splits, replace(QUICK, base=8, steps=150), 0)
        train_autoencoder(network, splits, show=False)
        u = network.standard(splits.test.x.flip(-1))
        errors.append(float((network(u) - u).detach().square().mean()))
    assert errors[1] < 0.1 * errors[0]


def test_loss_that_is_not_finite_is_named_with_its_step() -> None:
    splits = Splits.make(images())
    network = make_autoencoder(splits, replace(QUICK, lr=1e30, clip=0.0), 0)
    with pytest.raises(AutoencoderError, match=r"not finite at step \d+; a smaller embed.lr may help"):
        train_autoencoder(network, splits, show=False)


def test_encode_standardises_and_decode_takes_back() -> None:
    network, splits = trained(images())
    x = splits.test.x
    assert torch.equal(network.encode(x), network.encoder(network.x_map.to_latent(x)[0]))
    u = network.standard(x)
    assert torch.allclose(network.standard(network.decode(network.encode(x))), network(u), atol=1e-5)
    with pytest.raises(ValueError, match=r"images must be \(N, 1, 8, 8\); got \(2, 1, 4, 4\)"):
        network.encode(torch.zeros(2, 1, 4, 4))


def test_integers_are_encoded_at_the_middle_of_their_level() -> None:
    x = torch.randint(0, 4, (60, 1, 8, 8), generator=generator(0, "levels")).to(torch.uint8)
    network, _ = trained(Data(x, levels=Levels(0, 1, 4)))
    middle = network.x_map.to_latent(x.float() + 0.5)[0]
    assert torch.equal(network.encode(x), network.encoder(middle))


def test_saved_network_is_the_same_and_a_damaged_file_is_none(tmp_path) -> None:  # type: ignore[no-untyped-def]
    network, splits = trained(images())
    path = tmp_path / "latents.fold0.safetensors"
    save_autoencoder(network, path, fold=0)
    before = torch.random.get_rng_state()
    again, meta = load_autoencoder(path)
    assert torch.equal(before, torch.random.get_rng_state())
    assert same(network, again)
    assert (meta["fold"], again.config) == (0, network.config)
    assert torch.equal(again.encode(splits.test.x), network.encode(splits.test.x))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum"):
        load_autoencoder(path)
    flowzoo.checkpoint.save_tensors(path, {"a": torch.zeros(1)}, {"format": 1})
    with pytest.raises(CheckpointError, match="holds no autoencoder"):
        load_autoencoder(path)


def test_rate_rises_and_falls_to_its_floor() -> None:
    config = AutoencoderConfig(steps=100, lr=1.0, warmup=0.1, lr_floor=0.05)
    rates = Tensor([config.rate(step) for step in range(100)])
    assert torch.allclose(rates[:10], torch.arange(1, 11) / 10)
    assert bool((rates[10:].diff() < 0).all())
    assert 0.05 <= float(rates[-1]) < 0.06


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latents": 0}, "latents must be at least 1"),
        ({"levels": 0}, "levels"),
        ({"lr": 0.0}, "lr"),
        ({"warmup": 2.0}, "warmup"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AutoencoderConfig(**options)  # type: ignore[arg-type]
