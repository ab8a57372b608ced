"""What holds for every field statistic: its floor, what it detects, its sizes and its reasons."""

import math

import pytest
import torch

from flowzoo.metrics import NotComputed, configure
from flowzoo.metrics._fields import compare, quarters

COLUMN = {
    "power_spectrum": "pk_error",
    "pixel_pdf": "pixel_w1",
    "peaks": "peaks_error",
    "minkowski": "minkowski_error",
    "bispectrum": "bispectrum_error",
    "scattering": "scattering_distance",
}
every = pytest.mark.parametrize("name", COLUMN)


def both(name, evaluation, **options):
    found = configure(name, options)(evaluation)
    return found[COLUMN[name]], found[f"{COLUMN[name]}_floor"]


# -- what a column says ---------------------------------------------------------------------------------------------


@every
def test_sampler_without_fault_is_near_the_floor_neither_above_nor_below(name, fields):
    ratios = []
    for seed in range(20):
        real = fields.lognormal(5, 24, 1, 16, 16, name=f"real{seed}").float()
        drawn = fields.lognormal(5, 24, 1, 16, 16, name=f"drawn{seed}").float()
        value, floor = both(name, fields.evaluation(real, drawn, seed))
        ratios.append(math.log(value / floor))
    mean = sum(ratios) / len(ratios)
    spread = (sum((r - mean) ** 2 for r in ratios) / (len(ratios) - 1)) ** 0.5
    assert abs(mean) < 4 * spread / len(ratios) ** 0.5
    assert abs(mean) < 0.25


@every
def test_draws_with_a_fifth_too_much_contrast_are_well_above_the_floor(name, fields):
    real, drawn = (fields.lognormal(3, 120, 1, 32, 32, name=n) for n in ("real", "drawn"))
    value, floor = both(name, fields.evaluation(real, 1.2 * drawn))
    assert value > 2 * floor


@every
def test_draws_without_phases_are_well_above_the_floor_and_have_the_right_spectrum(name, fields):
    real, drawn = (fields.lognormal(3, 120, 1, 32, 32, name=n) for n in ("real", "drawn"))
    value, floor = both(name, fields.evaluation(real, fields.without_phases(drawn)))
    if name == "power_spectrum":
        assert value < 2 * floor
    else:
        assert value > 2 * floor


@every
def test_copies_of_the_real_maps_are_not_below_the_floor_by_much(name, fields):
    # half of the copies are in the half that they are compared with
    real = fields.lognormal(9, 60, 1, 16, 16)
    value, floor = both(name, fields.evaluation(real, real))
    assert 0.35 * floor < value < 1.5 * floor


# -- sizes ----------------------------------------------------------------------------------------------------------


@every
def test_numbers_of_real_maps_and_draws_may_differ(name, fields):
    real = fields.lognormal(3, 15, 1, 16, 16, name="real")
    for count in (2, 9, 40):
        value, floor = both(name, fields.evaluation(real, fields.lognormal(3, count, 1, 16, 16, name="drawn")))
        assert math.isfinite(value)
        assert math.isfinite(floor)


def test_every_comparison_is_of_equal_numbers():
    real, order = torch.arange(15.0)[None], torch.arange(15).flip(0)
    for draws, size in ((40, 7), (10, 7), (5, 5)):
        a, b, first, second = quarters(real, 100 + torch.arange(float(draws))[None], order)
        assert a.shape == b.shape == first.shape == second.shape == (1, size)
        assert not set(a.flatten().tolist()) & set(b.flatten().tolist())
    assert a.tolist() == [[14, 13, 12, 11, 10]]
    assert second.tolist() == [[100, 101, 102, 103, 104]]


def test_values_and_floors_are_between_the_right_parts():
    parts = [torch.tensor([[v]]) for v in (1.0, 10.0, 100.0, 1000.0)]  # A, B, draws, other draws
    value, floor = compare(parts, lambda a, b: (b - a)[:, 0])
    assert value.tolist() == [[99.0], [990.0]]
    assert floor.tolist() == [[9.0], [-9.0]]


@every
def test_channels_are_averaged(name, fields):
    real, drawn = (fields.lognormal(4, 12, 1, 16, 16, name=n) for n in ("real", "drawn"))
    once = both(name, fields.evaluation(real, drawn))
    twice = both(name, fields.evaluation(real.repeat(1, 1, 2, 1, 1), drawn.repeat(1, 1, 2, 1, 1)))
    assert twice == pytest.approx(once)


@every
def test_single_precision_agrees_with_double(name, fields):
    real, drawn = (fields.lognormal(4, 12, 1, 16, 20, name=n) for n in ("real", "drawn"))
    exact = both(name, fields.evaluation(real, drawn))
    assert both(name, fields.evaluation(real.float(), drawn.float())) == pytest.approx(exact, rel=2e-3)


@every
def test_chunks_do_not_change_the_result(name, fields, monkeypatch):
    real, drawn = (fields.lognormal(3, 12, 1, 16, 16, name=n) for n in ("real", "drawn"))
    once = both(name, fields.evaluation(real, drawn))
    monkeypatch.setattr("flowzoo.metrics._fields._rows", lambda maps, pixels=0: 5)
    assert both(name, fields.evaluation(real, drawn)) == pytest.approx(once, rel=1e-9)


@every
def test_median_over_contexts_bears_one_that_is_wrong(name, fields):
    real, drawn = (fields.lognormal(7, 40, 1, 16, 16, name=n) for n in ("real", "drawn"))
    good = both(name, fields.evaluation(real, drawn))[0]
    drawn[3] = 10 * drawn[3] + 5
    found = configure(name, {})(fields.evaluation(real, drawn))
    assert found[COLUMN[name]] < 2 * good
    assert found["by_context"].shape == (7,)
    assert int(found["by_context"].argmax()) == 3
    assert found["by_context"][3] > 5 * found["by_context"].median()


# -- what is kept ---------------------------------------------------------------------------------------------------


@every
def test_seed_repeats_and_the_evaluations_own_stream_is_left_alone(name, fields):
    real, drawn = (fields.lognormal(3, 12, 1, 16, 16, name=n) for n in ("real", "drawn"))
    evaluation = fields.evaluation(real, drawn)
    before = evaluation.generator.get_state()
    assert both(name, evaluation) == both(name, evaluation)
    assert torch.equal(evaluation.generator.get_state(), before)
    assert both(name, evaluation) != both(name, fields.evaluation(real, drawn, seed=1))


@every
def test_what_is_kept_is_of_every_context_and_finite(name, fields):
    real, drawn = (fields.lognormal(3, 12, 1, 16, 16, name=n) for n in ("real", "drawn"))
    found = configure(name, {})(fields.evaluation(real, drawn))
    tensors = {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}
    assert torch.equal(tensors["context"], torch.arange(3)[:, None].float())
    names = {column.name for column in configure(name, {}).columns}
    assert names == found.keys() - tensors.keys()
    for key, value in tensors.items():
        assert value.isfinite().all(), key
        if key not in ("k", "nu", "edges"):
            assert len(value) == 3, key


# -- reasons --------------------------------------------------------------------------------------------------------


@every
def test_what_cannot_be_computed_has_its_reason(name, fields):
    def reason(real, drawn, **changes):
        with pytest.raises(NotComputed) as caught:
            both(name, fields.evaluation(real, drawn, **changes))
        return str(caught.value)

    maps = fields.lognormal(3, 12, 1, 16, 16)
    assert reason(maps, maps, ensembles=None, ensembles_missing="three test contexts are too few") == (
        "three test contexts are too few"
    )
    assert reason(maps, maps, x=torch.zeros(4, 6)) == "events are (6,), not images (C, H, W)"
    small = maps[..., :8, :8]
    assert reason(small, small).startswith("8 x 8 pixels are too few for ")
    assert reason(maps[..., :12], maps[..., :12]).endswith(": 16 x 16 are needed")
    broken = maps.clone()
    broken[0, 1, 0, 2, 3], broken[2, 5, 0] = math.nan, math.inf
    assert reason(maps, broken) == "2 of 36 draws are not finite"
    assert reason(broken, maps) == "2 of 36 real maps are not finite"
    assert reason(maps[:, :3], maps).startswith("3 real maps at a context; 4 are needed for ")
    assert reason(maps, maps[:, :1]).startswith("1 draws at a context; 2 are needed for ")


@pytest.mark.parametrize("name", ["peaks", "minkowski"])
def test_constant_real_maps_have_no_unit_of_height(name, fields):
    maps = fields.lognormal(3, 12, 1, 16, 16)
    flat = maps.clone()
    flat[1] = 1
    with pytest.raises(NotComputed, match=r"^the real maps are constant at 1 of 3 contexts$"):
        both(name, fields.evaluation(flat, maps))


@pytest.mark.parametrize("name", ["bispectrum", "scattering"])
def test_equal_real_maps_have_no_scatter(name, fields):
    maps = fields.lognormal(3, 12, 1, 16, 16)
    with pytest.raises(NotComputed, match=r"^the real maps of a context do not vary: there is no unit"):
        both(name, fields.evaluation(torch.ones_like(maps), maps))


@every
def test_constant_draws_are_bad_and_not_infinite(name, fields):
    maps = fields.lognormal(3, 40, 1, 16, 16)
    value, floor = both(name, fields.evaluation(maps, torch.ones_like(maps)))
    assert math.isfinite(value)
    assert value > 1.8 * floor
