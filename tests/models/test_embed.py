"""``embed``: a network of the context that is part of any flow."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import flowzoo
from flowzoo import checkpoint, testing
from flowzoo.bijectors import Identity, Standardize, VectorAndImage
from flowzoo.data import Data, Splits
from flowzoo.harness.settings import read
from flowzoo.models import adapt, build, build_from, configure
from flowzoo.registry import EMBEDDINGS, MODELS, UnknownName
from flowzoo.seeding import generator
from flowzoo.stepper import Stepper
from flowzoo.testing import CHECKS, case_of
from flowzoo.train import FitConfig, fit

SMALL = {"num_steps": 2, "hidden_features": 16}
EMBEDDABLE = sorted(name for name in MODELS.names() if name != "gaussian")


def made(name="galacticflow", event=(3,), context=(2 + 64,), **options):
    image = {"context_image": (1, 8, 8)} if len(context) == 1 and context[0] >= 64 else {}
    options = {"embed": "conv", "embed_features": 4, **image, **SMALL, **options}
    return build(name, event, context, generator=generator(0, "init"), **options).eval()


def inputs(flow, count=12):
    source = generator(2, "x")
    x = torch.randn(count, *flow.event_shape, generator=source)
    return x, torch.randn(count, *flow.context_shape, generator=source)


def stirred(flow):
    source = generator(3, "stir")
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=source).to(p.dtype))
    return flow


class Rows:
    """Counts the contexts that go through the embedding."""

    def __init__(self, flow):
        self.seen = []
        flow.context_net.register_forward_hook(lambda module, args, out: self.seen.append(len(args[0])))

    def take(self):
        seen, self.seen[:] = list(self.seen), []
        return seen


# -- the conformance suite, with an embedding -----------------------------------------------------------------------

# These build flows without a context, which an embedding refuses.
OF_NO_CONTEXT = {"starts_near_the_data", "unconditional"}


@pytest.mark.parametrize("check", [name for name in CHECKS if name not in OF_NO_CONTEXT])
@pytest.mark.parametrize(
    ("name", "embed", "context", "options"),
    [
        ("galacticflow", "mlp", (2,), ()),
        ("nsf", "conv", (1, 8, 8), ()),
        ("cglow", "conv", (2 + 64,), (("context_image", (1, 8, 8)),)),
    ],
)
def test_flow_with_an_embedding_conforms(name, embed, context, options, check):
    case = case_of(name)
    options = (*case.options, ("embed", embed), ("embed_features", 3), *options)
    CHECKS[check](replace(case, options=options, context=context))


@pytest.mark.parametrize("name", EMBEDDABLE)
def test_every_model_takes_an_embedding_and_trains_it(name):
    case = case_of(name)
    options = {**dict(case.options), "embed": "conv", "embed_features": 3}
    flow = build(name, case.event, (1, 8, 8), generator=generator(0, "init"), **options)
    assert flow.context_shape == (1, 8, 8)
    x, c = testing.inputs(flow, 64, generator(1, "x"))
    flow.initialize(x, c)
    optimizer = torch.optim.SGD(flow.parameters(), lr=1e-3)
    for _ in range(2):  # what is neutral at the start lets no gradient through at first
        optimizer.zero_grad()
        (-flow(x, c).mean()).backward()
        optimizer.step()
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in flow.context_net.parameters())


def test_what_has_nothing_to_train_has_no_such_option():
    with pytest.raises(ValueError, match="gaussian has no option 'embed'"):
        configure("gaussian", {"embed": "mlp"})


# -- the density ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["galacticflow", "maf", "cglow"])
def test_flow_is_the_model_of_the_features(name):
    # the same weights, built by hand for the features of the mapped context
    context_map = VectorAndImage((1, 8, 8), Standardize((2,)), Standardize((1, 8, 8)))
    whole = made(name, context_map=context_map)
    x, c = inputs(whole)
    context_map.fit(5 + 2 * c)
    stirred(whole)
    plain = build(name, (3,), (2 + 4,), **SMALL).eval()
    if name == "cglow":
        plain.embedding[0] = torch.nn.Identity()
    weights = whole.state_dict()
    plain.load_state_dict({k: v for k, v in weights.items() if not k.startswith(("context_net", "context_map"))})
    with torch.no_grad():
        features = whole.context_net(context_map.to_latent(5 + 2 * c)[0])
        torch.testing.assert_close(whole.log_prob(x, 5 + 2 * c), plain.log_prob(x, features))
        z, log_det = whole.to_latent(x, 5 + 2 * c)
        torch.testing.assert_close(z, plain.to_latent(x, features)[0])
        torch.testing.assert_close(whole.to_data(z, 5 + 2 * c)[1], -log_det, atol=1e-4, rtol=1e-4)
        drawn = [
            f.sample(given, (3,), generator=generator(1, "z")) for f, given in ((whole, 5 + 2 * c), (plain, features))
        ]
        torch.testing.assert_close(*drawn)
        drawn, stated = whole.sample_and_log_prob(5 + 2 * c, generator=generator(1, "z"))
        torch.testing.assert_close(stated, whole.log_prob(drawn, 5 + 2 * c), atol=1e-4, rtol=1e-4)


def test_brightness_of_an_image_is_learnt():
    # x is normal about the mean brightness of its image: the truth is known, and so is what ignoring the image costs
    source = generator(4, "x")
    level = torch.randn(1500, 1, generator=source)
    c = level[..., None, None] + 0.3 * torch.randn(1500, 1, 12, 12, generator=source)
    x = level + 0.5 * torch.randn(1500, 1, generator=source)
    flow = build("realnvp", (1,), (1, 12, 12), embed="conv", **SMALL, generator=generator(0, "init"))
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for i in range(150):
        rows = slice(125 * (i % 8), 125 * (i % 8 + 1))
        optimizer.zero_grad()
        (-flow(x[rows], c[rows]).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        nll = -float(flow(x[1000:], c[1000:]).mean())
    truth = math.log(0.5) + 0.5 * math.log(2 * math.pi * math.e)
    ignoring = truth + 0.5 * math.log(5)
    assert truth - 0.1 < nll < truth + 0.15 < ignoring - 0.5


def test_draws_have_a_gradient_to_the_embedding_and_to_the_image():
    flow = stirred(made())
    _, c = inputs(flow)
    c.requires_grad_()
    flow.rsample(c, (2,), generator=generator(1, "z")).square().sum().backward()
    assert bool(c.grad[:, 2:].any())
    assert all(bool(p.grad.any()) for p in flow.context_net.parameters())


# -- what it costs --------------------------------------------------------------------------------------------------


def test_context_is_embedded_once_however_many_draws_it_gets():
    flow = stirred(made())
    _, c = inputs(flow, 3)
    rows = Rows(flow)
    flow.chunk_elements = 50  # sixteen events, and less than one context
    draws = flow.sample(c, (40,), generator=generator(1, "z"))
    assert rows.take() == [1, 1, 1]
    flow.chunk_elements = 2**19
    again = flow.sample(c, (40,), generator=generator(1, "z"))
    assert rows.take() == [3]
    torch.testing.assert_close(again, draws)
    apart = [flow.sample(c[i].expand(40, -1), generator=generator(1, "z")) for i in range(3)]
    assert [one.shape for one in apart] == [(40, 3)] * 3


def test_context_is_embedded_once_however_many_events_are_scored_under_it():
    flow = stirred(made())
    _, c = inputs(flow, 3)
    x = torch.randn(3, 50, 3, generator=generator(5, "x"))
    rows = Rows(flow)
    with torch.no_grad():
        table = flow.log_prob(x, c[:, None])
        assert rows.take() == [3]
        torch.testing.assert_close(flow.log_prob(x[1], c[1]), table[1])
        z, _ = flow.to_latent(x, c[:, None])
        flow.to_data(z, c[:, None])
    assert rows.take() == [1, 3, 3]


def test_million_draws_for_one_large_image_make_no_copies_of_it():
    # as many copies of the image would be 120 GB
    flow = made("realnvp", (1,), (3, 100, 100), num_steps=1, hidden_features=4)
    rows = Rows(flow)
    draws = flow.sample(torch.zeros(3, 100, 100), (10**6,), generator=generator(1, "z"))
    assert draws.shape == (10**6, 1)
    assert rows.take() == [1]


def test_empty_batches():
    flow = made()
    assert flow.sample(torch.zeros(0, 66), (3,)).shape == (3, 0, 3)
    assert flow.log_prob(torch.zeros(0, 3), torch.zeros(0, 66)).shape == (0,)
    assert flow.sample(torch.zeros(66)).shape == (3,)


# -- kept with the flow ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["galacticflow", "cglow"])
def test_saved_flow_has_its_embedding(name, tmp_path):
    context_map = VectorAndImage((1, 8, 8), Identity(), Standardize((1, 8, 8)))
    flow = made(name, context_map=context_map)
    x, c = inputs(flow)
    context_map.fit(3 * c + 1)
    flow.initialize(x, c)
    stirred(flow)
    checkpoint.save(flow, tmp_path / "flow.safetensors")
    again = checkpoint.load(tmp_path / "flow.safetensors")
    assert again.context_shape == (66,)
    assert again.recipe == flow.recipe
    assert torch.equal(again.log_prob(x, c), flow.log_prob(x, c))
    assert torch.equal(*(f.sample(c, (2,), generator=generator(1, "z")) for f in (flow, again)))


def test_checkpoint_from_before_embeddings_loads(tmp_path):
    flow = build("maf", (2,), (3,), **SMALL).eval()
    old = {key: value for key, value in flow.recipe["config"].items() if key in SMALL}
    flow.recipe["config"] = old
    checkpoint.save(flow, tmp_path / "flow.safetensors")
    again = checkpoint.load(tmp_path / "flow.safetensors")
    x, c = inputs(flow)
    assert torch.equal(again.log_prob(x, c), flow.log_prob(x, c))


def test_seed_decides_the_weights_of_both():
    states = [made().state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(key.startswith("context_net") for key in states[0])


# -- options --------------------------------------------------------------------------------------------------------


def test_dataset_says_what_the_image_is_and_only_an_embedding_asks():
    config = adapt(configure("maf", {"embed": "conv"}), context_image=(1, 8, 8))
    assert config.context_image == (1, 8, 8)
    assert build_from(config, (2,), (3 + 64,)).context_shape == (67,)
    assert adapt(configure("maf", {}), context_image=(1, 8, 8)) == configure("maf", {})
    given = configure("maf", {"embed": "conv", "context_image": [2, 8, 8]})
    assert adapt(given, context_image=(1, 8, 8)).context_image == (2, 8, 8)


def test_cglow_takes_an_image_itself_or_embedded():
    data = {"event_shape": (1, 8, 8), "context_shape": (2 + 64,)}
    plain = adapt(configure("cglow", {"num_steps": 1, "hidden_features": 8}), context_image=(1, 8, 8))
    own = build_from(plain, *data.values())
    assert own.context_net is None
    assert own.pyramid is not None
    embedded = build_from(replace(plain, embed="conv"), *data.values())
    assert embedded.pyramid is None
    assert embedded.vector_features == 2 + 16
    # of vectors it takes no image, but the features of one
    with pytest.raises(ValueError, match="cglow takes an image as context of images only"):
        build_from(plain, (3,), (2 + 64,))
    assert build_from(replace(plain, embed="conv"), (3,), (2 + 64,)).context_shape == (66,)


def test_what_cannot_be_embedded_is_refused_in_one_line():
    with pytest.raises(UnknownName, match=r"^unknown embedding 'cnn'.*known embeddings are conv, mlp$"):
        build("maf", (2,), (3,), embed="cnn")
    with pytest.raises(
        ValueError, match=r"^embed 'mlp' needs a context, and there is none; leave embed out, or choose"
    ):
        build("maf", (2,), embed="mlp")
    with pytest.raises(ValueError, match=r"^maf\.embed_features: counts must be at least 1; got 0$"):
        build("maf", (2,), (3,), embed="mlp", embed_features=0)


def test_own_embedding_joins_by_an_entry_point(monkeypatch):
    class Mean:
        def build(self, context_shape, features, image):
            class Net(torch.nn.Module):
                def forward(self, c):
                    return c.flatten(1).mean(1, keepdim=True)

            return Net()

    monkeypatch.setattr(EMBEDDINGS, "_entry_points", lambda: {"mean": SimpleNamespace(load=lambda: Mean)})
    flow = build("maf", (2,), (1, 4, 4), embed="mean", **SMALL)
    x, c = inputs(flow)
    torch.testing.assert_close(flow.log_prob(x, c), flow.log_prob(x, c.flip(-1)))


# -- from the command line ------------------------------------------------------------------------------------------


def test_set_reaches_every_chosen_model_that_has_it():
    settings = read(models="maf,cglow,gaussian", data="digits", sets=["model.embed=conv", "maf.embed_features=8"])
    assert settings.models == {
        "maf": {"embed": "conv", "embed_features": 8},
        "cglow": {"embed": "conv"},
        "gaussian": {},
    }


def test_bench_trains_and_keeps_an_embedding_of_the_images_of_galaxies(tmp_path):
    source = generator(6, "x")
    image = torch.randn(12, 1, 8, 8, generator=source)
    vector = torch.randn(12, 2, generator=source)
    index = torch.arange(12).repeat_interleave(40)
    x = torch.randn(480, 3, generator=source) + image.mean((1, 2, 3))[index, None]
    data = Data(
        x=x,
        context=torch.cat([vector, image.flatten(1)], 1),
        context_index=index,
        groups=index,
        context_image=(1, 8, 8),
    )
    done = flowzoo.bench(
        {"maf": {**SMALL, "embed": "conv", "embed_features": 3}, "galacticflow": {**SMALL, "embed": "mlp"}},
        data,
        out=tmp_path / "run",
        train={"steps": 20, "evaluate_every": 10, "batch_size": 64},
        baseline=False,
        draws=50,
        show=False,
    )
    assert not done.failed
    flow = done.flows["maf"]
    assert (flow.context_shape, flow.recipe["config"]["context_image"]) == ((66,), [1, 8, 8])
    fresh = build("maf", (3,), (66,), **{k: v for k, v in flow.recipe["config"].items() if v is not None})
    assert flow.context_net.state_dict().keys() == fresh.context_net.state_dict().keys()
    assert bool(flow.log_prob(x, data.context[index]).isfinite().all())


def test_fit_embeds_a_context_field_of_maps(tmp_path, monkeypatch, capsys):
    import sys

    from flowzoo import cli

    rng = np.random.default_rng(0)
    for field in ("HI", "Mtot"):
        np.save(tmp_path / f"Maps_{field}_SUITE_LH_z=0.00.npy", rng.lognormal(9, 1, (60, 16, 16)).astype(np.float32))
    rows = "".join(f"0.{100 + i} 0.{800 - 3 * i}\n" for i in range(30))
    (tmp_path / "params_LH_SUITE.txt").write_text("#Omega_m sigma_8\n" + rows)
    sets = [f"data.root={tmp_path}", "data.field=HI", "data.context_field=Mtot", "data.downsample=4"]
    sets += ["model.embed=conv", "maf.num_steps=1", "maf.hidden_features=8", "train.evaluate_every=5"]
    out = tmp_path / "flow.safetensors"
    words = ["fit", "--model", "maf", "--data", "maps", "--steps", "10", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["flowzoo", *words, *(word for text in sets for word in ("--set", text))])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code, capsys.readouterr().err
    flow = checkpoint.load(out)
    assert (tuple(flow.event_shape), tuple(flow.context_shape)) == ((1, 4, 4), (2 + 256,))
    assert flow.recipe["config"]["embed"] == "conv"
    assert flow.recipe["config"]["context_image"] == [1, 16, 16]


class Counted(torch.nn.Module):
    """Counts the contexts that it sees."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, context):
        self.seen.append(len(context))
        return self.net(context)


def shared(**options):
    """Events of five galaxies with an image each."""
    groups = torch.arange(200) % 5
    source = generator(0, "shared")
    images = torch.randn(5, 1, 8, 8, generator=source)
    x = images[groups, 0, :2, 0] + torch.randn(200, 2, generator=source)
    return Data(x, images, groups, groups, **options)


def test_shared_contexts_are_embedded_once_and_score_as_if_each_event_had_its_own():
    data = shared()
    flow = build("maf", (2,), (1, 8, 8), embed="conv", generator=generator(0, "init"))
    flow.context_net = Counted(flow.context_net)
    together = flow.log_prob(data.x, data.context, data.context_index)
    assert flow.context_net.seen == [5]
    torch.testing.assert_close(together, flow.log_prob(data.x, data.context[data.context_index]))


def test_training_and_validation_embed_each_galaxy_once_and_take_the_same_steps():
    splits = Splits.make(shared(), fractions=(0.6, 0.2, 0.2))
    flows = [build("maf", (2,), (1, 8, 8), embed="conv", generator=generator(0, "init")) for _ in range(2)]
    own, each = (Stepper(flow, splits.train, FitConfig(batch_size=16, clip=0.0), 0) for flow in flows)
    each.shared = None
    flows[0].context_net = Counted(flows[0].context_net)
    for _ in range(3):
        own.step()
        each.step()
    assert flows[0].context_net.seen == [3, 3, 3]
    for (name, a), b in zip(flows[0].named_parameters(), flows[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3, msg=name)
    flows[0].context_net.seen.clear()
    fit(flows[0], splits, FitConfig(steps=2, evaluate_every=2, batch_size=16), show=False)
    assert max(flows[0].context_net.seen) == 3  # of 120 events
