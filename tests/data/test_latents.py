"""Tables of latents: joined by id, split as they were learnt."""

import numpy as np
import pandas as pd
import pytest
import torch

from flowzoo.config import ConfigError
from flowzoo.data._latents import read_latents

GALAXIES = [("3", "3.npz"), ("7", "7.npz"), ("11", "11.npz")]


def table(folds=2):
    """Latent i of galaxy g in fold f is 100 f + g + i / 10; galaxy 5 is in no catalogue."""
    lines = []
    for fold in range(folds):
        for k, galaxy in enumerate((11, 5, 3, 7)):
            part = ("train", "validation", "test", "train")[(k + fold) % 4]
            latents = {f"latent_{i}": 100 * fold + galaxy + i / 10 for i in range(11)}
            lines.append({"id": galaxy, "fold": fold, "part": part, **latents})
    return pd.DataFrame(lines)


def write(tmp_path, frame):
    path = tmp_path / "latents.csv"
    frame.to_csv(path, index=False)
    return str(path)


def test_latents_follow_the_ids_and_columns_their_numbers(tmp_path):
    found = read_latents(write(tmp_path, table()), GALAXIES)
    assert found.names == [f"latent_{i}" for i in range(11)]
    assert found.vectors.shape == (2, 3, 11)
    expected = np.array([3, 7, 11])[:, None] + np.arange(11) / 10
    assert np.allclose(found.vectors, [expected, expected + 100])
    assert found.part.tolist() == [[2, 0, 0], [0, 0, 1]]


def test_several_folds_are_folds_with_contexts_of_their_own(tmp_path):
    context, groups = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 2])
    joined, given, folds = read_latents(write(tmp_path, table()), GALAXIES).splits(context, groups)
    assert given is None
    assert [fold.part.tolist() for fold in folds] == [[2, 2, 0, 0], [0, 0, 0, 1]]
    assert torch.equal(joined, folds[0].context)
    assert joined[:, :2].tolist() == [[1, 3], [2, 7], [3, 11]]
    assert folds[1].context[:, :2].tolist() == [[1, 103], [2, 107], [3, 111]]


def test_one_fold_is_the_given_split(tmp_path):
    context, groups = torch.zeros(3, 0), torch.tensor([0, 1, 1, 2])
    joined, given, folds = read_latents(write(tmp_path, table(1)), GALAXIES).splits(context, groups)
    assert given.tolist() == [2, 0, 0, 0]
    assert folds == []
    assert joined[:, 0].tolist() == [3, 7, 11]


def test_latents_that_float32_cannot_resolve_are_refused(tmp_path):
    frame = table(1).assign(latent_3=1e6 + np.arange(4) / 1000)
    found = read_latents(write(tmp_path, frame), GALAXIES)
    assert found.part.dtype == torch.uint8
    with pytest.raises(ValueError, match=r"column 'latent_3': near 1e\+06 float32 goes in steps"):
        found.splits(torch.zeros(3, 0), torch.arange(3))


def change(**values):
    def changed(frame):
        for name, value in values.items():
            frame[name] = frame[name].astype(object) if isinstance(value, str) else frame[name].astype(float)
            frame.loc[2, name] = value
        return frame

    return changed


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t[(t.id != 7) | (t.fold != 1)], r"latents.csv: no latents for galaxy '7' \(7.npz\) in fold 1"),
        (lambda t: pd.concat([t, t[:1]]), r"latents.csv: galaxy '11' has two rows in fold 0; one is needed"),
        (change(latent_2=np.nan), r"latents.csv: 'latent_2' of galaxy '3' \(3.npz\) in fold 0 is nan"),
        (change(latent_2=np.inf), r"'latent_2' of galaxy '3' .* is inf; every latent must be finite"),
        (change(latent_2="a"), r"latents.csv: column 'latent_2' holds text"),
        (change(fold="a"), r"latents.csv: column 'fold' holds text"),
        (change(part="seen"), r"latents.csv: split column 'part' must hold .*it also has seen"),
        (lambda t: t.assign(fold=t.fold * 2), "'fold' must be 0, 1, ..., each there; it holds 0, 2"),
        (lambda t: t.drop(columns="latent_4"), "a table of latents has columns latent_0, latent_1, ...; this has"),
        (lambda t: t[["id", "fold", "part"]], "this has none"),
        (lambda t: t.drop(columns="id"), "has no column 'id'"),
        (lambda t: t[:0], "has no rows"),
    ],
)
def test_what_is_wrong_names_the_table_and_the_galaxy(tmp_path, spoil, message):
    with pytest.raises((ConfigError, ValueError), match=message) as caught:
        read_latents(write(tmp_path, spoil(table())), GALAXIES)
    assert "\n" not in str(caught.value)
