"""Images as contexts of a catalogue: the right one for each galaxy, beside its numbers, and errors that name it."""

import numpy as np
import pytest
import torch

from flowzoo.config import ConfigError
from flowzoo.data import Splits
from flowzoo.data.catalogue import Catalogue

COUNT = 6


@pytest.fixture
def path(tmp_path):
    """Galaxies 0 to 5 of 50 particles in one file."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(COUNT), 50)
    x, y = rng.normal(size=(2, len(group)))
    file = tmp_path / "gas.npz"
    np.savez(file, x=x, y=y, galaxy=group, mass=np.exp(x))
    return file


def maps(views=1, side=8):
    """Image v of galaxy g is full of 10 g + v."""
    values = 10.0 * np.arange(COUNT)[:, None] + np.arange(views)
    return np.broadcast_to(values.reshape(-1, 1, 1), (COUNT * views, side, side)).astype(np.float32)


def load(path, **options):
    return Catalogue(path=str(path), x=("x", "y"), group="galaxy", **options).load()


def test_first_view_of_each_galaxy_stands_behind_its_numbers(path, tmp_path):
    np.save(tmp_path / "maps.npy", maps(views=3))
    data = load(path, images=str(tmp_path / "maps.npy"), image_views=3, summaries=("log10 sum(mass)", "mean(y)"))
    assert data.context_image == (1, 8, 8)
    assert data.context.shape == (COUNT, 2 + 64)
    assert data.context_names == ("sum(mass)", "mean(y)", "image[0]")
    assert torch.equal(data.context[:, 2:], 10.0 * torch.arange(COUNT)[:, None].expand(-1, 64))
    splits = Splits.make(data)
    context_map = splits.maps()[1]
    seen = context_map.to_latent(splits.train.contexts[torch.unique(splits.train.context_index)])[0]
    # of the training galaxies alone, and one scale for all pixels
    torch.testing.assert_close(seen[:, 2:].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[:, 2:].std(unbiased=False), torch.tensor(1.0), atol=1e-5, rtol=0)


def test_folder_of_images_by_id_with_a_floor_and_a_logarithm(path, tmp_path):
    (tmp_path / "images").mkdir()
    for galaxy in range(COUNT):
        np.save(tmp_path / "images" / f"{galaxy:03}.npy", np.stack([maps()[galaxy], maps()[0]]))
    data = load(path, images=str(tmp_path / "images"), image_floor=5.0)
    assert data.context_image == (2, 8, 8)
    expected = np.log10(np.maximum(10.0 * np.arange(COUNT), 5.0))
    torch.testing.assert_close(data.context[:, 0], torch.from_numpy(expected).float())
    torch.testing.assert_close(data.context[:, 64:], torch.full((COUNT, 64), float(np.log10(5.0))))


def test_latents_of_folds_stand_between_numbers_and_image(path, tmp_path):
    np.save(tmp_path / "maps.npy", maps())
    rows = ["id,fold,part,latent_0"]
    for fold in range(2):
        rows += [f"{g},{fold},{'test' if g % 2 == fold else 'train'},{fold + g / 10}" for g in range(COUNT)]
    (tmp_path / "latents.csv").write_text("\n".join(rows))
    data = load(path, images=str(tmp_path / "maps.npy"), latents=str(tmp_path / "latents.csv"), summaries="mean(y)")
    assert data.context_names == ("mean(y)", "latent_0", "image[0]")
    for fold, known in enumerate(data.folds):
        torch.testing.assert_close(known.context[:, 1], fold + torch.arange(COUNT) / 10)
        assert torch.equal(known.context[:, 2], 10.0 * torch.arange(COUNT))


@pytest.mark.parametrize(
    ("array", "options", "says"),
    [
        (maps(), {"image_views": 4}, r"expected \(G \* 4, H, W\).*got \(6, 8, 8\)"),
        (maps()[:4], {}, r"no image for galaxy '4' .*it has those of galaxies 0 to 3, 1 each"),
        (
            np.where(np.arange(64).reshape(8, 8) < 2, np.nan, maps()),
            {},
            "image of galaxy '0' has 2 pixels that are not",
        ),
        (np.array(["a"] * 6), {}, "expected an .npy of numbers"),
        (maps(), {"image_floor": -1.0}, "image_floor positive"),
    ],
)
def test_image_that_will_not_do_is_named(path, tmp_path, array, options, says):
    np.save(tmp_path / "maps.npy", array)
    with pytest.raises((ConfigError, ValueError), match=says):
        load(path, images=str(tmp_path / "maps.npy"), **options)


def test_missing_image_in_a_folder_is_named(path, tmp_path):
    (tmp_path / "images").mkdir()
    for galaxy in range(COUNT - 1):
        np.save(tmp_path / "images" / f"{galaxy}.npy", maps()[galaxy])
    with pytest.raises(ValueError, match=r"no image for galaxy '5' .*expected 5.npy"):
        load(path, images=str(tmp_path / "images"))
    np.save(tmp_path / "images" / "5.npy", maps(side=6)[5])
    words = r"5\.npy: the image of galaxy '5' is \(1, 6, 6\); that of the first, '0' in .*0\.npy, is \(1, 8, 8\)"
    with pytest.raises(ValueError, match=words):
        load(path, images=str(tmp_path / "images"))
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load(path, images=str(tmp_path / "nothing"))
