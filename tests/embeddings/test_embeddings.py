"""The embedding networks: what they return, what they see, and what they refuse."""

import pytest
import torch

from flowzoo.embeddings import make
from flowzoo.registry import EMBEDDINGS, UnknownName
from flowzoo.seeding import generator, initialisation


def made(name, context, **options):
    with initialisation(generator(0, "init")):
        return make(name, context, **options)


def images(*shape):
    return torch.randn(*shape, generator=generator(1, "x"))


def test_folder_is_the_registry():
    assert EMBEDDINGS.names() == ["conv", "mlp"]
    with pytest.raises(UnknownName, match=r"unknown embedding 'conf': did you mean conv\? known embeddings are conv"):
        make("conf", (3,))


# -- conv -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [(8, 8), (9, 13), (31, 8), (100, 12), (64, 64)])
def test_images_of_any_size_from_8_pixels_become_features(side):
    net, width = made("conv", (2, *side), features=5)
    assert width == 5
    x = images(3, 2, *side).requires_grad_()
    y = net(x)
    assert y.shape == (3, 5)
    # every pixel is seen
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert bool((gradient != 0).all())


@pytest.mark.parametrize("side", [8, 32, 200])
def test_size_of_a_signal_is_kept_at_the_start(side):
    net, _ = made("conv", (3, side, side), features=64)
    with torch.no_grad():
        power = float(net(images(8, 3, side, side)).square().mean())
    assert 0.2 < power < 2


def test_brightness_is_seen():
    net, _ = made("conv", (1, 16, 16), features=8)
    x = images(1, 1, 16, 16)
    with torch.no_grad():
        one, three = net(x), net(3 * x)
    assert float((three - one).norm()) > float(one.norm())


def test_an_image_does_not_depend_on_its_company():
    net, _ = made("conv", (1, 16, 16), features=8)
    x = images(6, 1, 16, 16)
    with torch.no_grad():
        net.train()
        torch.testing.assert_close(net(x)[2:3], net(x[2:3]))
    assert not list(net.buffers())


def test_columns_beside_an_image_are_passed_on_and_the_image_is_the_last_columns():
    net, width = made("conv", (3 + 128,), features=4, image=(2, 8, 8))
    assert width == 3 + 4
    vector, image = images(5, 3), images(5, 2, 8, 8)
    y = net(torch.cat([vector, image.flatten(1)], 1))
    assert torch.equal(y[:, :3], vector)
    alone, _ = made("conv", (2, 8, 8), features=4)
    torch.testing.assert_close(y[:, 3:], alone(image))


def test_what_a_convolution_cannot_see_is_refused():
    with pytest.raises(
        ValueError, match=r"embed 'conv' needs an image \(C, H, W\), or .* has shape \(5,\)\. For a vec"
    ):
        make("conv", (5,))
    with pytest.raises(
        ValueError, match=r"needs 8 pixels a side or more; the image is \(1, 7, 9\)\. For these take mlp"
    ):
        make("conv", (1, 7, 9))


# -- mlp ------------------------------------------------------------------------------------------------------------


def test_mlp_is_two_linear_layers_of_the_whole_context():
    net, width = made("mlp", (2, 3), features=4)
    assert width == 4
    first, second = (m for m in net if isinstance(m, torch.nn.Linear))
    x = images(5, 2, 3)
    hidden = x.flatten(1) @ first.weight.T + first.bias
    torch.testing.assert_close(net(x), (hidden * hidden.sigmoid()) @ second.weight.T + second.bias)


def test_image_is_a_vector_like_any_other_to_the_mlp():
    assert made("mlp", (3 + 4,), features=6, image=(1, 2, 2))[1] == 6


# -- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conv", "mlp"])
def test_seed_decides_the_weights(name):
    one, two = (made(name, (1, 8, 8))[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("context", "image", "message"),
    [
        ((0,), None, "embed 'mlp' needs a context, and there is none; leave embed out, or choose data with one"),
        ((1, 8, 8), (1, 9, 9), r"context_image is \(1, 9, 9\); the context is an image \(1, 8, 8\)"),
        ((10,), (1, 4, 4), r"last C H W columns of a flat context; got \(1, 4, 4\) with a context \(10,\)"),
        ((4, 16), (1, 4, 4), r"last C H W columns of a flat context; got \(1, 4, 4\) with a context \(4, 16\)"),
    ],
)
def test_context_that_does_not_hold_what_is_said_of_it_is_refused(context, image, message):
    with pytest.raises(ValueError, match=message):
        make("mlp", context, image=image)


def test_network_that_returns_no_features_is_refused(monkeypatch):
    class Bad:
        def build(self, context_shape, features, image):
            return torch.nn.Identity()

    monkeypatch.setattr(EMBEDDINGS, "get", lambda name: Bad)
    with pytest.raises(
        ValueError, match=r"embed 'mine' must turn 2 contexts into \(2, F\) features; it returned \(2, 1,"
    ):
        make("mine", (1, 8, 8))
