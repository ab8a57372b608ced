"""What means missing in the data of a training means it in files that are scored and drawn at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import flowzoo
from flowzoo.config import ConfigError
from flowzoo.harness.drawing import sample_catalogue
from flowzoo.harness.plan import Cell
from flowzoo.harness.scoring import Scored, score_file
from flowzoo.harness.single import fit_one

Write = Callable[[pd.DataFrame, Path], Path]

Plan = Callable[..., list[Cell]]
ENDINGS = [".csv", ".npz", ".h5", ".parquet"]


def catalogue() -> pd.DataFrame:
    """400 galaxies, of which some have no mass and some no redshift."""
    rng = np.random.default_rng(0)
    z = rng.gamma(2, 0.5, 400)
    frame = pd.DataFrame({"mass": z + rng.normal(10, 0.3, 400), "z": z, "sfr": rng.normal(size=400)})
    frame.loc[::10, "mass"] = -99
    frame.loc[3::7, "z"] = -99
    return frame


@pytest.fixture(scope="module")
def trained(plan: Plan, tmp_path_factory: pytest.TempPathFactory, write: Write) -> Path:
    """A flow of the mass given z, which had gaps, and sfr, which had none."""
    folder = tmp_path_factory.mktemp("gaps")
    options = {
        "path": str(write(catalogue(), folder / "gal.csv")),
        "x": "mass",
        "context": "z,sfr",
        "missing": "-99",
        "context_log": "z",
    }
    fit_one(plan(data="table", options=options, train={"steps": 5})[0], folder / "flow.safetensors")
    return folder / "flow.safetensors"


def score(trained: Path, file: Path, **options: Any) -> tuple[Scored, np.ndarray, list[str]]:
    said: list[str] = []
    done = score_file(trained, file, file.parent / "out.npz", overwrite=True, warn=said.append, **options)
    return done, np.load(file.parent / "out.npz")["log_prob"], said


@pytest.mark.parametrize("ending", ENDINGS)
def test_file_of_the_training_is_scored_as_it_was_trained(
    trained: Path, tmp_path: Path, ending: str, write: Write
) -> None:
    frame = catalogue()
    done, found, said = score(trained, write(frame, tmp_path / f"gal{ending}"))
    gone = (frame["mass"] == -99).to_numpy()
    assert np.isnan(found).tolist() == gone.tolist()
    assert (done.rows, done.missing, done.outside) == (400, 40, 0)
    assert said == [
        f"40 of 400 rows of {tmp_path / f'gal{ending}'} hold a value that is not finite (-99 counts as such: "
        "data.missing of the training); their log_prob is not finite"
    ]
    # Filled with the median of the rows that were trained on, and flagged.
    kept = frame[~gone]
    fill = kept["z"][kept["z"] != -99].median()
    context = np.stack([kept["z"].where(kept["z"] != -99, fill), kept["sfr"], kept["z"] == -99], 1).astype(np.float32)
    x = torch.from_numpy(kept[["mass"]].to_numpy(np.float32).copy())
    with torch.no_grad():
        exact = flowzoo.load(trained).log_prob(x, torch.from_numpy(context)).numpy()
    assert np.allclose(found[~gone], exact, rtol=1e-4, atol=1e-4)
    assert done.mean == pytest.approx(float(exact.astype(float).mean()), rel=1e-5)


def test_column_without_gaps_in_the_training_has_none_that_can_be_filled(
    trained: Path, tmp_path: Path, write: Write
) -> None:
    frame = catalogue()
    frame.loc[5, "sfr"] = -99
    done, found, _ = score(trained, write(frame, tmp_path / "gal.csv"))
    assert done.missing == 41
    assert np.isnan(found[5])


def test_contexts_with_gaps_are_drawn_at_and_what_is_written_is_scored_alike(
    trained: Path, tmp_path: Path, write: Write
) -> None:
    contexts = pd.DataFrame({"z": [0.5, -99, 2], "sfr": [0.0, 0, 1]})
    out = tmp_path / "drawn.csv"
    sample_catalogue(trained, out, galaxies=write(contexts, tmp_path / "c.csv"), n=3)
    drawn = pd.read_csv(out)
    assert drawn["z missing"].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert (drawn["z"] > 0).all()
    _, found, said = score(trained, out)
    assert said == []
    assert np.isfinite(found).all()
    bare = drawn.drop(columns="z missing")
    bare.loc[bare.index[3:6], "z"] = -99
    assert np.allclose(score(trained, write(bare, tmp_path / "bare.csv"))[1], found, rtol=1e-5)


def test_context_that_cannot_be_filled_is_named(trained: Path, tmp_path: Path, write: Write) -> None:
    contexts = pd.DataFrame({"z": [0.5, 1], "sfr": [0.0, -99]})
    with pytest.raises(ConfigError, match=r"'1' has sfr = nan; 1 of 2 .* \(-99 counts as such: data.missing of the tr"):
        sample_catalogue(trained, tmp_path / "o.csv", galaxies=write(contexts, tmp_path / "c.csv"), n=3)


def test_column_whose_gaps_were_filled_is_still_needed(trained: Path, tmp_path: Path, write: Write) -> None:
    file = write(catalogue().drop(columns="z"), tmp_path / "gal.csv")
    with pytest.raises(ConfigError, match="lacks the columns z, z missing"):
        score(trained, file)
