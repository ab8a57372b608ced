"""sbibm as a dataset: its parts, its directions, its references and what it refuses."""

import pickle
import shutil
import time

import numpy as np
import pytest
import torch

from flowzoo.config import ConfigError
from flowzoo.data import Splits, configure
from flowzoo.data._sbibm_glm import own_design
from flowzoo.data.sbibm import TASKS, Sbibm
from flowzoo.seeding import generator

SHAPES = {  # of theta and x
    "two_moons": (2, 2),
    "slcp": (5, 8),
    "sir": (2, 10),
    "lotka_volterra": (4, 20),
    "gaussian_linear": (10, 10),
    "gaussian_linear_uniform": (10, 10),
    "gaussian_mixture": (2, 2),
    "bernoulli_glm": (10, 10),
    "bernoulli_glm_raw": (10, 100),
}
BOTH = [
    (task, way) for task in TASKS for way in ("posterior", "likelihood") if (task, way[0]) != ("bernoulli_glm", "l")
]
NEED_FILES = ("slcp", "sir", "lotka_volterra")


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    """Nothing depends on what the machine has."""
    monkeypatch.delenv("FLOWZOO_DATA", raising=False)


def load(task, **options):
    return configure("sbibm", {"task": task, "simulations": 300, "tests": 50, **options}).load()


def write(folder, task="slcp", **changes):
    """A reference file of two observations, with some arrays replaced, or left out where None."""
    dim, width = SHAPES[task]
    rng = np.random.default_rng(0)
    arrays = {
        "observation": rng.random((2, width), dtype=np.float32),
        "true_parameters": rng.random((2, dim), dtype=np.float32),
        "reference_posterior": rng.random((2, 30, dim), dtype=np.float32),
    }
    arrays = {key: value for key, value in (arrays | changes).items() if value is not None}
    np.savez(folder / f"{task}.npz", **arrays)
    return str(folder)


def test_there_are_nine_tasks():
    assert set(TASKS) == set(SHAPES)
    assert len(TASKS) == 9


@pytest.mark.parametrize(("task", "direction"), BOTH)
def test_shapes_names_and_parts(task, direction):
    data = load(task, direction=direction)
    theta, x = (data.x, data.context) if direction == "posterior" else (data.context, data.x)
    dim, width = SHAPES[task]
    assert (theta.shape, x.shape) == ((350, dim), (350, width))
    names, parameters = (
        (data.context_names, data.names) if direction == "posterior" else (data.names, data.context_names)
    )
    assert (len(set(names)), len(set(parameters))) == (width, dim)
    assert torch.bincount(data.given_split).tolist() == [270, 30, 50]
    assert data.theta == ("event" if direction == "posterior" else "context")
    assert bool(data.prior.covers(theta).all())


@pytest.mark.parametrize(("task", "direction"), BOTH)
def test_splits_and_maps_can_be_made(task, direction):
    splits = Splits.make(load(task, direction=direction))
    x_map, context_map = splits.maps()
    u, slope = x_map.to_latent(splits.test.fixed)
    assert bool(u.isfinite().all())
    assert bool(slope.isfinite().all())
    assert torch.allclose(x_map.to_data(u)[0], splits.test.fixed, rtol=1e-3, atol=1e-2)
    assert bool(context_map.to_latent(splits.test.context)[0].isfinite().all())


def test_contexts_of_sir_need_no_case_on_day_0():
    # Nearly all counts of that day are 0, and in a small budget all of them: no scale could be fitted.
    data = load("sir", simulations=20, tests=5)
    assert float(data.context[:, 0].max()) == 0
    _, context_map = Splits.make(data).maps()
    assert bool(context_map.to_latent(data.context)[0].isfinite().all())


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_gives_the_same_bits_and_another_seed_others(task):
    first, again, other = (load(task, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.context, again.context)
    assert not torch.equal(first.context, other.context)


@pytest.mark.parametrize("task", TASKS)
def test_tests_are_the_same_whatever_the_budget(task):
    small, large = load(task), load(task, simulations=500)
    assert torch.equal(small.x[-50:], large.x[-50:])
    assert torch.equal(small.context[-50:], large.context[-50:])
    assert not torch.equal(small.x[:50], small.x[-50:])


@pytest.mark.parametrize("task", TASKS)
def test_simulator_gives_one_observation_for_each_theta_and_leaves_the_global_generator_alone(task):
    before = torch.random.get_rng_state()
    data = load(task)
    theta = data.prior.sample(6, generator(0, "probe")).reshape(2, 3, -1)
    x = data.simulate(theta, generator(0, "x"))
    assert x.shape == (2, 3, SHAPES[task][1])
    assert torch.equal(x, data.simulate(theta, generator(0, "x")))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("task", TASKS)
def test_data_with_its_functions_can_be_sent_to_another_process(task):
    data = load(task)
    copy = pickle.loads(pickle.dumps(data))
    theta = data.x[:5]
    assert torch.equal(copy.simulate(theta, generator(0, "x")), data.simulate(theta, generator(0, "x")))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_ten_thousand_simulations_take_seconds(task):
    start = time.process_time()
    assert len(configure("sbibm", {"task": task}).load()) == 12_000
    assert time.process_time() - start < 20


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("bernoulli_glm",)])
def test_density_of_a_likelihood_flow_prefers_its_own_theta(task):
    # The mean of log p(x | theta) - log p(x | theta') over pairs is a Kullback-Leibler divergence, so positive.
    data = load(task, direction="likelihood")
    own = data.true_log_prob(data.x, data.context)
    other = data.true_log_prob(data.x, data.context.roll(1, 0))
    assert bool(own.isfinite().all())
    assert float((own - other.clamp_min(-1e6)).double().mean()) > 0.3


@pytest.mark.parametrize("task", ["sir", "bernoulli_glm_raw"])
def test_integers_declare_their_levels_as_events_alone(task):
    data = load(task, direction="likelihood")
    assert data.levels is not None
    assert any("U(0, 1)" in note for note in data.notes)
    noisy = data.x + 0.7
    assert torch.equal(data.true_log_prob(noisy, data.context), data.true_log_prob(data.x, data.context))
    assert load(task).levels is None


def test_sums_over_spikes_are_no_event():
    with pytest.raises(ConfigError, match=r"bernoulli_glm has no likelihood flow.*direction=posterior"):
        load("bernoulli_glm", direction="likelihood")


@pytest.mark.parametrize("task", NEED_FILES)
def test_tasks_without_a_known_posterior_say_that_they_need_a_file(task):
    data = load(task)
    assert data.reference_posteriors is None
    assert any(f"{task}.npz" in note for note in data.notes)


def test_references_are_read_with_the_scores_at_as_many_simulations(tmp_path):
    folder = write(tmp_path)
    lines = ["task,num_simulations,num_observation,algorithm,C2ST"]
    lines += [
        f"slcp,{count},{i},{how},{score}"
        for count, score in ((300, 0.8), (900, 0.7))
        for how in ("NPE", "SNPE")
        for i in (1, 2)
    ]
    lines += ["slcp,300,3,NPE,0.95", "two_moons,300,1,NPE,0.5"]
    (tmp_path / "published_c2st.csv").write_text("\n".join(lines) + "\n")
    found = load("slcp", references=folder).reference_posteriors()
    assert (found.x.shape, found.theta.shape, found.truth.shape) == ((2, 8), (2, 30, 5), (2, 5))
    assert dict(found.published) == {"NPE": pytest.approx((0.8 + 0.8 + 0.95) / 3)}
    assert load("slcp", references=folder, simulations=400).reference_posteriors().published == {}


def test_default_folder_is_that_of_the_environment(tmp_path, monkeypatch):
    (tmp_path / "sbibm").mkdir()
    write(tmp_path / "sbibm", true_parameters=None)
    monkeypatch.setenv("FLOWZOO_DATA", str(tmp_path))
    assert load("slcp").reference_posteriors().truth is None
    assert load("slcp", references="$FLOWZOO_DATA/sbibm").reference_posteriors().x.shape == (2, 8)


def test_folder_without_the_file_serves_tasks_with_exact_draws(tmp_path):
    assert load("gaussian_linear", references=str(tmp_path)).reference_posteriors().theta.shape == (10, 10_000, 10)
    with pytest.raises(FileNotFoundError, match=r"sir\.npz"):
        load("sir", references=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load("sir", references=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation": None}, "no array 'observation'; it has true_parameters, reference_posterior"),
        ({"observation": np.zeros((2, 7))}, r"'observation' must be \(any, 8\); got \(2, 7\)"),
        ({"reference_posterior": np.zeros((2, 30))}, r"must be \(any, any, 5\); got \(2, 30\)"),
        ({"reference_posterior": np.zeros((2, 0, 5))}, r"got \(2, 0, 5\)"),
        ({"reference_posterior": np.zeros((3, 4, 5))}, "2 in observation, 3 in reference_posterior"),
        (
            {"reference_posterior": np.full((2, 4, 5), np.nan)},
            "40 of 40 values of 'reference_posterior' are not finite",
        ),
        ({"observation": np.array([[None] * 8] * 2)}, "'observation' cannot be read"),
        ({"observation": np.array([["a"] * 8] * 2)}, "'observation' must be numbers"),
    ],
)
def test_reference_files_that_do_not_fit_are_refused(tmp_path, changes, message):
    data = load("slcp", references=write(tmp_path, **changes))
    with pytest.raises(ValueError, match=message):
        data.reference_posteriors()


def test_files_that_are_no_archive_or_no_table_are_refused(tmp_path):
    (tmp_path / "slcp.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match=r"not a readable \.npz file"):
        load("slcp", references=str(tmp_path)).reference_posteriors()
    write(tmp_path)
    (tmp_path / "published_c2st.csv").write_text("task,score\nslcp,0.5\n")
    with pytest.raises(ValueError, match="needs the columns task, num_simulations, algorithm and C2ST"):
        load("slcp", references=str(tmp_path)).reference_posteriors()


def test_design_matrix_is_read_from_the_folder(tmp_path):
    design = own_design().numpy()
    np.savez(tmp_path / "bernoulli_glm_design.npz", design_matrix=design)
    assert torch.equal(load("bernoulli_glm").context, load("bernoulli_glm", references=str(tmp_path)).context)
    np.savez(tmp_path / "bernoulli_glm_design.npz", design_matrix=design[::-1])
    assert not torch.equal(load("bernoulli_glm").context, load("bernoulli_glm", references=str(tmp_path)).context)
    np.savez(tmp_path / "bernoulli_glm_design.npz", design_matrix=design[:50])
    with pytest.raises(ValueError, match=r"'design_matrix' must be \(100, 10\); got \(50, 10\)"):
        load("bernoulli_glm", references=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "three_moons"}, "two_moons.*bernoulli_glm_raw"),
        ({"direction": "backward"}, "direction"),
        ({"simulations": 4}, "simulations must be enough"),
        ({"simulations": 0}, "simulations must be enough"),
        ({"validation": 1.0}, "a share between 0 and 1; got simulations 300 and validation 1"),
        ({"tests": 0}, "tests must be at least 1; got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        load(**{"task": "two_moons", **options})
    with pytest.raises(ConfigError, match=message):
        Sbibm(**{"simulations": 300, **options}).load()


def test_torn_design_archive_is_refused(tmp_path):
    np.savez(tmp_path / "whole.npz", design_matrix=own_design().numpy())
    shutil.copy(tmp_path / "whole.npz", tmp_path / "bernoulli_glm_design.npz")
    raw = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "bernoulli_glm_design.npz").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match="bernoulli_glm_design"):
        load("bernoulli_glm", references=str(tmp_path))
