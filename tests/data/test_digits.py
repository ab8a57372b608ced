"""digits: real integer data without a download, and what dequantisation does to it."""

import torch

from flowzoo.data import Splits, configure
from flowzoo.seeding import generator


def digits():
    return configure("digits", {}).load()


def test_digits_have_their_shapes_levels_and_classes():
    data = digits()
    assert data.x.shape == (1797, 1, 8, 8)
    assert data.x.dtype == torch.uint8
    assert data.levels == (0, 1, 17)
    assert (int(data.x.min()), int(data.x.max())) == (0, 16)
    assert torch.equal(data.context, torch.eye(10))
    assert torch.bincount(data.context_index).min() > 170


def test_a_digit_keeps_the_class_of_the_source():
    from sklearn.datasets import load_digits

    data, bunch = digits(), load_digits()
    for row in (0, 5, 1796):
        assert int(data.context[data.context_index[row]].argmax()) == bunch.target[row]
        assert data.x[row, 0].tolist() == bunch.images[row].astype(int).tolist()


def test_dequantised_digits_stay_within_their_level():
    train = Splits.make(digits()).train
    index = torch.arange(len(train))
    x, context = train.batch(index, generator(0, "noise"))
    assert context.shape == (len(train), 10)
    assert bool(((x - train.x >= 0) & (x - train.x <= 1)).all())
    assert float((x - train.x).mean()) > 0.49


def test_dequantised_batch_repeats_with_its_generator_and_changes_without():
    train = Splits.make(digits()).train
    index = torch.arange(32)
    first, again, other = (train.batch(index, generator(s, "noise"))[0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_evaluation_uses_one_fixed_draw_for_each_part():
    first, again = Splits.make(digits()), Splits.make(digits())
    assert torch.equal(first.test.fixed, again.test.fixed)
    noise = [split.fixed[:100] - split.x[:100] for split in (first.train, first.validation, first.test)]
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[1], noise[2])


def test_digit_map_is_onto_the_whole_range_and_back():
    x_map, _ = Splits.make(digits()).maps()
    x = torch.linspace(0, 17, 64).reshape(1, 1, 8, 8)
    u, slope = x_map.to_latent(x)
    back, inverse_slope = x_map.to_data(u)
    assert torch.allclose(back, x, atol=1e-4)
    assert torch.allclose(slope, -inverse_slope, atol=1e-4)
    assert bool(u.isfinite().all())
