import sys

import numpy as np
import pytest
import torch

from flowzoo.report import figures_latents
from flowzoo.report.figures_latents import STEPS, png, reconstruction, traversal
from flowzoo.seeding import generator


def maps(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(0, "maps"))


def shown(figure) -> list:  # type: ignore[no-untyped-def]
    return [at.images[0] for at in figure.axes if at.images and at.get_label() != "<colorbar>"]


def test_original_stands_above_its_reconstruction_in_the_same_colours() -> None:
    originals = maps(3, 2, 8, 8)
    again = originals + 5
    figure = reconstruction(originals, again, ["a", "b", "c"], ["HI", "gas"], ["dex", "dex"])
    pictures = shown(figure)
    assert len(pictures) == 12
    for c in range(2):
        for i in range(3):
            above, below = pictures[6 * c + i], pictures[6 * c + 3 + i]
            assert np.array_equal(above.get_array(), originals[i, c].numpy())
            assert np.array_equal(below.get_array(), again[i, c].numpy())
            low, high = np.percentile(originals[:, c].double().numpy(), (1, 99))
            assert above.get_clim() == below.get_clim() == pytest.approx((low, high))
            top, bottom = above.axes.get_position(), below.axes.get_position()
            assert top.x0 == bottom.x0
            assert top.y0 > bottom.y1
    assert [at.get_title() for at in figure.axes[:3]] == ["a", "b", "c"]
    assert [at.get_xlabel() for at in figure.axes[-2:]] == ["HI [dex]", "gas [dex]"]


def test_traversal_has_a_row_for_each_latent_and_a_column_for_each_step() -> None:
    images = maps(2, len(STEPS), 1, 8, 8)
    figure = traversal(images, [7, 3], [2.0, 0.5], ["HI"], ["dex"])
    pictures = shown(figure)
    for row in range(2):
        for step in range(len(STEPS)):
            assert np.array_equal(pictures[row * len(STEPS) + step].get_array(), images[row, step, 0].numpy())
    assert len({picture.get_clim() for picture in pictures}) == 1
    words = [text.get_text() for text in figure.texts]
    assert words[1:] == ["latent 7\n(std 2)", "latent 3\n(std 0.5)"]
    assert [at.get_title() for at in figure.axes[:5]] == ["-2 std", "-1 std", "mean", "+1 std", "+2 std"]


def test_what_is_not_finite_is_masked_and_the_colours_are_of_the_rest() -> None:
    originals = maps(1, 1, 4, 4)
    originals[0, 0, 1, 2] = torch.nan
    picture = shown(reconstruction(originals, originals, ["a"]))[0]
    assert np.argwhere(picture.get_array().mask).tolist() == [[1, 2]]
    assert all(np.isfinite(picture.get_clim()))


def test_constant_images_and_dollars_are_drawn() -> None:
    zeros = torch.zeros(2, 1, 4, 4)
    assert png(reconstruction(zeros, zeros, ["$", "M_$"]))


def test_same_figure_is_the_same_bytes_and_pyplot_is_left_alone() -> None:
    images = maps(2, 5, 1, 4, 4)
    pyplot = "matplotlib.pyplot" in sys.modules
    contents = {png(traversal(images, [0, 1], [1.0, 1.0])) for _ in range(2)}
    assert len(contents) == 1
    assert contents.pop().startswith(b"\x89PNG")
    assert ("matplotlib.pyplot" in sys.modules) == pyplot
    assert figures_latents.STEPS[2] == 0
