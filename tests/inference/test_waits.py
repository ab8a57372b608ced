"""On a GPU priors do not wait, a grid waits by rounds and not by tiles, and both say what they say on the CPU."""

import pytest
import torch

from flowzoo.data.hi_sim import HISim
from flowzoo.held import held_on
from flowzoo.inference import Box, Gaussian, LogNormal
from flowzoo.inference._coordinates import Coordinates
from flowzoo.inference._grid import grid
from flowzoo.seeding import generator
from flowzoo.testing import pretended_gpu

PRIORS = {
    "box": Box([-1.0, 2.0], [1.0, 5.0]),
    "gaussian": Gaussian([0.5, -1.0], [[1.0, 0.6], [0.6, 2.0]]),
    "lognormal": LogNormal([0.0, 0.3], [0.5, 0.2]),
}


@pytest.fixture
def gpu():
    with pretended_gpu() as gpu:
        yield gpu


def test_constant_is_copied_once_and_again_when_it_was_written_to(gpu):
    constant = torch.ones(3)
    first = held_on(constant, gpu.device)
    assert held_on(constant, gpu.device) is first
    assert gpu.waits == ["aten::_to_copy"]
    constant[0] = 2.0
    assert held_on(constant, gpu.device).tolist() == [2.0, 1.0, 1.0]
    assert held_on(constant, "cpu") is constant


@pytest.mark.parametrize("name", PRIORS)
def test_prior_does_not_wait(name, gpu):
    prior = PRIORS[name]
    u = torch.rand(50, 2, generator=generator(0, "u"), dtype=torch.float64)

    def asked(u):
        theta, line = prior.from_unit(u), Coordinates(prior, line=True)
        v = torch.special.ndtri(u)
        found = [theta, prior.to_unit(theta), prior.log_prob(theta), prior.log_copula(theta), prior.covers(theta)]
        return [*found, line.theta(v), line.log_prior(v, theta)], line, v, theta

    expected, there = asked(u)[0], u.to(gpu.device)
    found, line, v, theta = asked(there)
    for mine, known in zip(found, expected, strict=True):
        assert torch.equal(mine.cpu(), known)
    gpu.waits.clear()
    prior.log_prob(prior.from_unit(prior.to_unit(theta)))
    prior.log_copula(theta)
    prior.covers(theta)
    line.log_prior(v, line.theta(v))
    assert gpu.waits == []


def test_grid_waits_by_rounds(gpu):
    def target(v, rows):
        return -0.5 * ((v - 0.5) / 0.02).square().sum(-1)

    def run(device):
        low, high = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
        return grid(target, low.to(device), high.to(device), 3, 10, generator(0, "grid"))

    expected = run("cpu")
    gpu.waits.clear()
    found = run(gpu.device)
    assert torch.equal(found.v.cpu(), expected.v)
    assert len(gpu.waits) < 60  # tiles have nine parts, and a mask of each would be a wait


def test_boxes_of_the_simulation_share_their_modes(gpu):
    simulation = HISim(num_simulations=1, grid=8, slabs=2, maps_per_simulation=1)
    theta = torch.tensor([[0.3, 0.8]]).expand(4, 2)
    expected, theta = simulation.simulate(theta, generator(0, "x")), theta.to(gpu.device)
    found = simulation.simulate(theta, generator(0, "x"))
    assert torch.equal(found.cpu(), expected)
    gpu.waits.clear()
    simulation.simulate(theta, generator(0, "x"))
    copies = gpu.waits.count("aten::_to_copy")
    assert copies == 4 * 5  # of each box the noise, and the nodes of four integrals over its theta
