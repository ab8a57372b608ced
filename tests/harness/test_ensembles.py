"""Real and drawn images at the same held-out contexts, whence field statistics come."""

import torch

from flowzoo.data import Data, Splits, configure
from flowzoo.harness import open_source
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.ensembles import RealEnsembles, drawn_ensembles, examples, real_ensembles
from flowzoo.metrics import Ensembles
from flowzoo.models import build
from flowzoo.seeding import generator


def splits_of(per=4, contexts=12, size=16, **options):
    """Maps whose pixels are near the number of their context."""
    source = generator(0, "x")
    index = torch.arange(contexts).repeat_interleave(per)
    x = torch.randn(contexts * per, 1, size, size, generator=source) + 100.0 * index[:, None, None, None]
    context = torch.arange(contexts).float()[:, None]
    return Splits.make(Data(x=x, context=context, context_index=index, groups=index, **options))


def test_real_images_are_test_events_of_the_context_that_they_stand_under():
    splits = splits_of()
    known = real_ensembles(splits, contexts=16, count=500)
    held_out = set(splits.test.contexts[splits.test.context_index].flatten().tolist())
    assert set(known.context.flatten().tolist()) == held_out
    assert known.real.shape == (len(held_out), 4, 1, 16, 16)
    torch.testing.assert_close(known.real.mean((1, 2, 3, 4)), 100 * known.context[:, 0], atol=1, rtol=0)


def test_number_of_contexts_and_of_images_is_bounded_and_the_choice_repeats():
    splits = splits_of()
    known, again = (real_ensembles(splits, contexts=2, count=2) for _ in range(2))
    assert known.real.shape == (2, 2, 1, 16, 16)
    assert torch.equal(known.real, again.real)


def test_dataset_that_can_simulate_gives_fresh_images_at_test_contexts():
    def simulate(theta, generator):
        return 100 * theta[:, :, None, None] + torch.randn(len(theta), 1, 16, 16, generator=generator)

    splits = splits_of(simulate=simulate)
    known = real_ensembles(splits, contexts=2, count=50)
    assert known.real.shape == (2, 50, 1, 16, 16)
    torch.testing.assert_close(known.real.mean((1, 2, 3, 4)), 100 * known.context[:, 0], atol=0.1, rtol=0)
    every = torch.cat([splits.train.x, splits.validation.x, splits.test.x]).flatten(1)
    assert not bool((known.real.flatten(0, 1).flatten(1)[:, None] == every).all(-1).any())


def test_reasons_why_there_are_none():
    assert "images" in real_ensembles(Splits.make(configure("two_moons", {"num_events": 50}).load()), 4, 10)
    assert "8 x 8 pixels are too few" in real_ensembles(splits_of(size=8), 4, 10)
    few = real_ensembles(splits_of(per=1), 4, 10)
    assert few == "no test context has 4 events, and there are 2 contexts"


def test_events_with_contexts_of_their_own_are_one_population_beside_a_draw_each():
    splits = splits_of(per=1, contexts=60)
    known = real_ensembles(splits, contexts=4, count=10)
    assert known.paired
    assert known.real.shape == (1, 10, 1, 16, 16)
    torch.testing.assert_close(known.real[0].mean((1, 2, 3)), 100 * known.context[:, 0], atol=1, rtol=0)
    flow = build("gaussian", (1, 16, 16), (1,), x_map=splits.maps()[0], context_map=splits.maps()[1])
    flow.initialize(splits.train.x, splits.train.context)
    found = drawn_ensembles(flow, known, 500, seed=0)
    assert found.drawn.shape == (1, 10, 1, 16, 16)
    assert bool(found.context.isinf().all())
    shown = examples(found, known)
    assert shown["examples.real"].shape == shown["examples.drawn"].shape == (4, 1, 1, 16, 16)
    assert torch.equal(shown["examples.real"][:, 0], known.real[0, :4])
    assert torch.equal(shown["examples.drawn"][:, 0], found.drawn[0, :4])
    torch.testing.assert_close(found.drawn[0].mean((1, 2, 3)), 100 * known.context[:, 0], atol=300, rtol=0)


def test_image_of_a_context_is_kept_for_the_picture():
    real = torch.randn(1, 9, 1, 16, 16, generator=generator(0, "x"))
    images = torch.randn(9, 2, 4, 4, generator=generator(0, "c"))
    flat = torch.cat([torch.arange(9.0)[:, None], images.flatten(1)], 1)
    for context, image, left in ((images, None, 0), (flat, (2, 4, 4), 1)):
        known = RealEnsembles(context, real, "", paired=True)
        kept = examples(Ensembles(context[:1], real, real), known, image)
        assert torch.equal(kept["examples.given"], images[:4])
        assert kept["examples.context"].shape == (4, left)


def test_draws_stand_at_the_same_contexts_and_repeat_by_seed():
    splits = splits_of()
    known = real_ensembles(splits, contexts=2, count=2)
    flow = build("gaussian", (1, 16, 16), (1,), x_map=splits.maps()[0], context_map=splits.maps()[1])
    flow.initialize(splits.train.x, splits.train.context)
    found, again, other = (drawn_ensembles(flow, known, 5, seed) for seed in (0, 0, 1))
    assert found.drawn.shape == (2, 5, 1, 16, 16)
    torch.testing.assert_close(found.drawn.mean((1, 2, 3, 4)), 100 * known.context[:, 0], atol=20, rtol=0)
    assert torch.equal(found.drawn, again.drawn)
    assert not torch.equal(found.drawn, other.drawn)
    kept = examples(found, known)
    assert kept["examples.real"].shape == (2, 2, 1, 16, 16)
    assert kept["examples.drawn"].shape == (2, 4, 1, 16, 16)


def test_real_ensembles_are_made_once_for_all_models():
    source = open_source("fields", {"size": 16, "num_contexts": 20, "maps_per_context": 2}, BenchConfig())
    bench = BenchConfig(ensemble_contexts=2, ensemble_draws=3)
    first = source.ensembles(bench)
    assert source.ensembles(bench) is first
    assert source.ensembles(BenchConfig(ensemble_contexts=2, ensemble_draws=4)) is not first


def test_context_with_few_events_does_not_decide_for_the_others():
    source = generator(0, "x")
    counts = torch.tensor([10] * 20 + [4] * 10)
    index = torch.arange(30).repeat_interleave(counts)
    x = torch.randn(len(index), 1, 16, 16, generator=source)
    splits = Splits.make(Data(x=x, context=torch.arange(30.0)[:, None], context_index=index, groups=index))
    known = real_ensembles(splits, contexts=16, count=500)
    assert known.real.shape[1] == 10
    assert float(known.context.max()) < 20
