"""SBC: uniform for exact posteriors, not for others, and blind where it must be."""

from dataclasses import replace

import pytest
import torch

from flowzoo.metrics import configure
from flowzoo.metrics._calibration import holm, uniform_p
from flowzoo.metrics.sbc import sbc
from flowzoo.seeding import generator


@pytest.mark.slow
def test_exact_posterior_is_rejected_as_often_as_the_level_says(of_exact):
    assert float((of_exact["sbc_p"] <= 0.05).double().mean()) == pytest.approx(0.05, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["overconfident", "underconfident", "shifted"])
def test_faulty_posterior_is_rejected(of_faults, fault):
    assert float((of_faults[fault]["sbc_p"] <= 0.05).double().mean()) > 0.95


def test_log_likelihood_sees_a_correlation_that_is_lost(gaussian):
    # Every marginal is right, and parameters are drawn independently of one another.
    some = gaussian.posteriors(2000, 100)
    white = torch.linalg.solve_triangular(
        gaussian.root, (some.draws - some.observation @ gaussian.gain.T).mT, upper=False
    ).mT
    draws = some.observation @ gaussian.gain.T + white * gaussian.covariance.diagonal().sqrt()
    found = replace(some, draws=draws, log_likelihood=gaussian.log_likelihood(draws, some.observation))
    p = uniform_p(sbc(found, generator(0, "sbc")).T)
    assert float(holm(p[:3]).min()) > 0.05
    assert float(p[3]) < 1e-6


def test_prior_returned_passes_with_its_own_likelihood_and_fails_with_the_simulators(gaussian):
    blind = sbc(gaussian.posteriors(500, 100, returns_prior=True, implied=True), generator(0, "sbc"))
    assert float(holm(uniform_p(blind.T)).min()) > 0.05
    told = sbc(gaussian.posteriors(500, 100, returns_prior=True), generator(0, "sbc"))
    assert float(uniform_p(told[:, 3])) < 1e-6


def test_without_a_likelihood_the_family_is_of_the_parameters(gaussian):
    some = replace(gaussian.posteriors(100, 20), log_likelihood=None, truth_log_likelihood=None)
    found = configure("sbc", {})(gaussian.evaluation(some))
    assert found["p"].shape == (3,)
    assert "pit_log_likelihood" not in found
    assert found["sbc_p"] == float(holm(uniform_p(found["pit"].T)).min())


@pytest.mark.filterwarnings("ignore")  # of what sbi imports
def test_ranks_are_those_of_sbi(gaussian):
    diagnostics = pytest.importorskip("sbi.diagnostics", reason="sbi is not installed: its ranks were not compared")
    some = gaussian.posteriors(100, 100)
    some = replace(some, draws=some.draws.float(), truth=some.truth.float())

    class Known:
        """What sbi asks of a posterior: draws of all observations."""

        def sample_batched(self, shape, x, **_):
            return some.draws

    theirs, _ = diagnostics.run_sbc(
        some.truth, some.observation.float(), Known(), num_posterior_samples=100, show_progress_bar=False
    )
    ours = (sbc(some, generator(0, "sbc"))[:, :3] * 101).floor()
    assert torch.equal(theirs.double(), ours)
