"""Which events are for training, validation and test: whole groups, seeded, by folds, or as the data say."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from flowzoo.data._data import Data
from flowzoo.seeding import generator


def own_fold(data: Data, fold: tuple[int, int] | None) -> Data:
    """The data as its own k-th fold has it: split as that says, with the contexts learnt from its training groups."""
    k, count = fold if fold is not None else (0, 1)
    if count != len(data.folds):
        asked = f"{count} folds were asked for" if fold is not None else "none was asked for"
        own = f"the data has {len(data.folds)} folds of its own, and {asked}; ask for {len(data.folds)}"
        cure = (
            f": the table of data.latents has so many: --folds {len(data.folds)}; for `fit`, write one without --folds"
        )
        raise ValueError(own + cure if "latent_0" in data.context_names else own)
    chosen = data.folds[k]
    return replace(data, given_split=chosen.part, context=chosen.context, folds=())


def assign(data: Data, seed: int, fractions: tuple[float, float, float], fold: tuple[int, int] | None = None) -> Tensor:
    """``(N,)`` of 0, 1, 2: the part of each event, whole groups together."""
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions must be three numbers that add up to 1; got {fractions}")
    assert data.groups is not None
    source = generator(seed, "split")
    if data.given_split is not None:
        return _official(data.groups, data.given_split.clone().long(), fractions, source)
    labels, inverse = torch.unique(data.groups, return_inverse=True)
    total = len(labels)
    if total < 3:
        raise ValueError(f"a split needs at least 3 groups; the data has {total}")
    order = torch.randperm(total, generator=source)
    if fold is None:
        test = max(1, round(fractions[2] * total))
        validation = max(1, round(fractions[1] * total))
    else:
        order, test = _fold_first(order, *fold)
        if fractions[0] + fractions[1] <= 0:
            raise ValueError(f"fractions {fractions} leave nothing for training beside the fold that is tested")
        share = fractions[1] / (fractions[0] + fractions[1])
        validation = max(1, round((total - test) * share))
        largest = -(-total // fold[1])  # so that the first fold fails where a later one would
        if largest + max(1, round((total - largest) * share)) >= total:
            raise ValueError(f"{fold[1]} folds of {total} groups, and fractions {fractions}, leave none for training")
    if test + validation >= total:
        raise ValueError(f"fractions {fractions} of {total} groups leave none for training")
    part_of_group = torch.zeros(total, dtype=torch.long)
    part_of_group[order[:test]] = 2
    part_of_group[order[test : test + validation]] = 1
    return part_of_group[inverse]


def _fold_first(order: Tensor, k: int, count: int) -> tuple[Tensor, int]:
    """The groups with those of fold k first, and how many these are; the others follow in a circle."""
    total = len(order)
    if not 2 <= count <= total or not 0 <= k < count:
        raise ValueError(
            f"{total} groups can be cut into 2 to {total} folds, 0 being the first; got fold {k} of {count}"
        )
    first, end = k * total // count, (k + 1) * total // count
    return order.roll(-first), end - first


def _official(groups: Tensor, part: Tensor, fractions: tuple[float, float, float], source: torch.Generator) -> Tensor:
    """The given split, checked; its validation part is drawn from the training part where it has none."""
    if bool(((part < 0) | (part > 2)).any()):
        raise ValueError("given_split must hold 0 (train), 1 (validation) and 2 (test) alone")
    for k, name in ((0, "training"), (2, "test")):
        if not bool((part == k).any()):
            raise ValueError(f"the given split has no {name} events (no {k} in given_split)")
    labels, inverse = torch.unique(groups, return_inverse=True)
    pairs = torch.unique(3 * inverse + part) // 3
    torn = int((torch.bincount(pairs, minlength=len(labels)) > 1).sum())
    if torn:
        raise ValueError(
            f"the given split tears {torn} of {len(labels)} groups apart: they have events in several parts. "
            "Give no groups, or a split that respects them."
        )
    if not bool((part == 1).any()):
        train = torch.unique(groups[part == 0])
        if len(train) < 2:
            raise ValueError("the given split has one training group and no validation part to stop by")
        share = fractions[1] / (fractions[0] + fractions[1])
        count = min(max(1, round(share * len(train))), len(train) - 1)
        chosen = train[torch.randperm(len(train), generator=source)[:count]]
        part[(part == 0) & torch.isin(groups, chosen)] = 1
    return part
