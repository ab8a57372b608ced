"""Loops repeated as often as they were counted, and what says whether that was enough."""

import pytest
import torch

from flowzoo.host_sync import NoHostSync
from flowzoo.layers.monotone import solve
from flowzoo.layers.rounds import SPARE, Rounds, until


def halve(x, most=50):
    """x halved until all are below 1."""
    enough = until(most)
    for _ in range(most):
        x = torch.where(x >= 1, x / 2, x)
        if enough((x < 1).all()):
            break
    return x


def test_loop_asks_its_flag_unless_it_is_repeated():
    x = torch.tensor([3.0, 100.0])
    with pytest.raises(AssertionError, match="wait"), NoHostSync():
        halve(x)
    rounds = Rounds()
    with rounds.counted():
        known = halve(x)
    assert rounds.counts == [7]
    assert rounds.all_ended
    with rounds.repeated() as flags, NoHostSync():
        found = halve(x)
    assert torch.equal(found, known)
    assert torch.stack(flags).tolist() == [True]


def test_too_few_rounds_are_said_and_the_next_count_keeps_the_larger():
    rounds = Rounds()
    with rounds.counted():
        halve(torch.tensor([3.0])), halve(torch.tensor([100.0]))
    assert rounds.counts == [2, 7]
    with rounds.repeated() as flags:
        halve(torch.tensor([2.0 ** (2 + SPARE)])), halve(torch.tensor([2.0 ** (1 + SPARE)]))
    assert torch.stack(flags).tolist() == [False, True]
    with rounds.counted():
        halve(torch.tensor([30.0])), halve(torch.tensor([3.0]))
    assert rounds.counts == [5, 7]


def test_no_loop_is_repeated_beyond_its_most():
    rounds = Rounds()
    with rounds.counted():
        halve(torch.tensor([3.0]), most=2)
    assert rounds.all_ended
    with rounds.repeated() as flags:
        assert float(halve(torch.tensor([7.0]), most=2)) == 7 / 4
    assert torch.stack(flags).tolist() == [False]


def test_loop_that_ran_out_has_not_ended():
    rounds = Rounds()
    with rounds.counted():
        halve(torch.tensor([3.0])), halve(torch.tensor([100.0]), most=3)
    assert not rounds.all_ended


@pytest.mark.parametrize("slope_known", [True, False])
def test_repeated_solutions_are_those_of_the_counted_loop(slope_known):
    y = 30 * torch.randn(200, generator=torch.Generator().manual_seed(0))

    def find():
        slope = {"with_slope": lambda x: (x + x**3, 1 + 3 * x**2)} if slope_known else {}
        return solve(lambda x: x + x**3, y, **slope)

    rounds = Rounds()
    with rounds.counted():
        known = find()
    with rounds.repeated() as flags, NoHostSync():
        found = find()
    torch.testing.assert_close(found, known, rtol=1e-6, atol=0)
    assert bool(torch.stack(flags).all())
