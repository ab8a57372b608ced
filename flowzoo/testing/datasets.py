"""What every dataset must satisfy: the same bits again, whole groups, exact maps, and truths that are true."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from flowzoo.bijectors import Bijector
from flowzoo.data import Data, Splits
from flowzoo.data._augment import SYMMETRIES
from flowzoo.registry import DATASETS
from flowzoo.seeding import generator
from flowzoo.testing import _truths
from flowzoo.testing._chance import own_chance
from flowzoo.testing._dataset_case import DatasetCase, dataset_case, split
from flowzoo.testing._suite import NotApplicable, close, exemptions, named, run

EVENTS = 32  # of the training part, that maps are tried on
FULL = 256  # numbers of an event, up to which all of the Jacobian of its map is looked at
ROUNDING = 1e-4


def check_loads_the_same_twice(case: DatasetCase) -> None:
    """The same options give the same bits, whatever the process-wide generators, which are left alone."""
    first, hashed = case.data, case.splits.hash
    with own_chance(f"loading {case.name}"):
        again = replace(case.config).load()  # type: ignore[type-var]
    for part in dataclasses.fields(Data):
        if not _same(getattr(first, part.name), getattr(again, part.name)):
            raise AssertionError(f"loaded again, {part.name} differs")
    if split(again).hash != hashed:
        raise AssertionError("loaded again, the splits have another hash")


def check_says_what_columns_are(case: DatasetCase) -> None:
    """Names and units are as many as columns or channels, and differ; what is said of axes and groups fits."""
    data = case.data
    assert data.groups is not None
    for kind, shape, names, units in (
        ("", data.event_shape, data.names, data.units),
        ("context_", data.context_shape, data.context_names, data.context_units),
    ):
        count = shape[0] if len(shape) != 2 else 1
        if kind and data.context_image is not None:
            count += data.context_image[0] - prod(data.context_image)
        for what, texts in ((f"{kind}names", names), (f"{kind}units", units)):
            if len(texts) not in (0, count) or not all(isinstance(text, str) for text in texts):
                raise AssertionError(
                    f"{what} must be a text for each of {count} columns or channels; got {list(texts)}"
                )
        if len(set(names)) < len(names) or not all(names):
            raise AssertionError(f"{kind}names must differ, and none be empty; got {list(names)}")
    image = data.event_shape if data.theta == "context" else data.context_shape
    if (data.augment or data.side) and len(image) != 3:
        raise AssertionError(
            f"augment and side are of images (C, H, W); got {tuple(data.augment)}, {data.side}, {image}"
        )
    if unknown := set(data.augment) - set(SYMMETRIES):
        raise AssertionError(f"augment must be some of {', '.join(SYMMETRIES)}; got {', '.join(sorted(unknown))}")
    if not all(0 <= axis < len(data.event_shape) for axis in data.periodic):
        raise AssertionError(f"periodic must be axes of an event {tuple(data.event_shape)}; got {tuple(data.periodic)}")
    if data.side is not None and not (0 < data.side[0] < math.inf and isinstance(data.side[1], str)):
        raise AssertionError(f"side must be a positive length and its unit; got {data.side}")
    if data.group_names and int(data.groups.max()) >= len(data.group_names):
        raise AssertionError(f"{len(data.group_names)} group_names, and groups up to {int(data.groups.max())}")
    for text in (data.describe(), *data.notes):
        if not text.strip() or len(text.splitlines()) != 1:
            raise AssertionError(f"notes and description must be lines; got {text!r}")


def check_splits_keep_groups_whole(case: DatasetCase) -> None:
    """Every event is in one part, no group in two; in folds each group is tested once; a theta has one group."""
    data = case.data
    assert data.groups is not None
    for seed in (0, 1):
        splits, again = split(data, seed), split(data, seed)
        parts = [part.groups.unique().tolist() for part in (splits.train, splits.validation, splits.test)]
        total = len(splits.train) + len(splits.validation) + len(splits.test)
        if total != len(data) or not all(parts):
            raise AssertionError(f"the parts have {total} of {len(data)} events, or one has none")
        if sum(map(len, parts)) != len(set().union(*parts)):
            raise AssertionError("a group is in two parts")
        if splits.hash != again.hash:
            raise AssertionError("split again by the same seed, the hash differs")
    count = len(data.folds) or 3
    if data.folds or (data.given_split is None and len(data.groups.unique()) > 2 * count):
        tested = [Splits.make(data, fold=(k, count)).test.groups.unique() for k in range(count)]
        if not torch.equal(torch.cat(tested).sort().values, data.groups.unique()):
            raise AssertionError(f"of {count} folds not every group is tested once")
    if data.prior is not None:
        theta = case.contexts if data.theta == "context" else data.x
        _, of = torch.unique(theta, dim=0, return_inverse=True)
        torn = len(torch.unique(torch.stack([of, data.groups.to(of)]), dim=1)[0]) - len(of.unique())
        if torn:
            raise AssertionError(f"{torn} times the same theta is in another group, which a split may tear from it")


def check_maps_come_back(case: DatasetCase) -> None:
    """``to_data`` undoes ``to_latent``, for events and contexts of the training part, and their log-slopes cancel."""
    for what, bijector, x in _mapped(case):
        u, forward = bijector.to_latent(x)
        back, backward = bijector.to_data(u)
        if not bool(u.isfinite().all()):
            raise AssertionError(f"{what} is not finite at {int((~u.isfinite()).sum())} of {u.numel()} numbers")
        scale = x.std().clamp_min(1e-300) if len(x) > 1 else 1.0
        close(back / scale, x / scale, ROUNDING, f"round trip of {what}")
        close(
            backward.flatten(1).sum(1), -forward.flatten(1).sum(1), ROUNDING, f"log-slopes of the round trip of {what}"
        )


def check_maps_have_their_log_det(case: DatasetCase) -> None:
    """The log-slopes add up to the log|det| that automatic differentiation finds, at events of the training part."""
    for what, bijector, x in _mapped(case):
        numbers = x[0].numel()
        if numbers > FULL and what == "context_map":
            continue  # its log|det| is no part of a density
        x = x[: max(1, 4096 // numbers)].requires_grad_()
        u, slopes = bijector.to_latent(x)
        if numbers <= FULL:
            # Events do not meet, so the Jacobian of their sum holds that of each.
            rows = [torch.autograd.grad(total, x, retain_graph=True)[0] for total in u.sum(0).flatten()]
            true = torch.linalg.slogdet(torch.stack(rows, 1).flatten(2))[1]
        else:
            diagonal = torch.autograd.grad(u.sum(), x, retain_graph=True)[0]
            along = torch.randn(x.shape, generator=generator(0, "probe"), dtype=x.dtype)
            found = torch.autograd.grad((u * along).sum(), x)[0]
            close(found, diagonal * along, ROUNDING, f"{what} of {numbers} numbers as a map of each by itself")
            true = diagonal.abs().log().flatten(1).sum(1)
        close(slopes.detach().flatten(1).sum(1), true, ROUNDING, f"log|det| of {what}")


def check_levels_are_respected(case: DatasetCase) -> None:
    """Dequantised events lie between the ends of the levels, and the map takes them all, the ends too."""
    data, splits = case.data, case.splits
    if data.levels is None:
        raise NotApplicable("its events are continuous")
    low, step, count = data.levels
    top = low + step * count
    batch = splits.train.batch(torch.arange(min(EVENTS, len(splits.train))), generator(0, "levels"))[0]
    for what, x in (("a training batch", batch), ("the test part", splits.test.fixed)):
        if not bool(((x >= low) & (x <= top)).all()):
            raise AssertionError(f"{what} lies outside of {low:g} to {top:g}, the declared levels with their noise")
    x_map = splits.maps()[0]
    for end in (low, top):
        if not bool(x_map.to_latent(torch.full_like(batch[:1], end))[0].isfinite().all()):
            raise AssertionError(f"the map of the events is not finite at {end:g}, the end of the declared levels")


def _mapped(case: DatasetCase) -> Iterable[tuple[str, Bijector, Tensor]]:
    """The two maps in float64, and events and contexts of the training part."""
    train = case.splits.train
    rows = torch.randperm(len(train), generator=generator(0, "rows"))[:EVENTS]
    maps = copy.deepcopy(case.splits.maps())
    found = zip(("x_map", "context_map"), maps, (train.fixed[rows], train.context[rows]), strict=True)
    return [(what, bijector.double(), x.double()) for what, bijector, x in found if x[0].numel()]


#: every check of a dataset by name, in the order in which they are worth running
DATASET_CHECKS = named(globals()) | named(vars(_truths))


def check_dataset(name: str, **options: Any) -> dict[str, str]:
    """Run every check on a registered dataset.

    Args:
        name: registered, by a file of the zoo, by an entry point or by its decorator.
        options: of the dataset: where its files are, and sizes: a few hundred events are enough.

    Returns:
        The checks that say nothing of the dataset, because it declares that it cannot pass them (a class attribute
        ``exempt`` of check to reason) or because they do not apply to it, with the reasons.

    Raises:
        AssertionError: with the check and the figure that failed.
        NotApplicable: if its files are not there, or it needs options and none were given.
        ValueError: if it has no density (see ``Splits.make``), or is exempt from a check that does not exist.
    """
    return run(DATASET_CHECKS, dataset_case(name, **options), name, exemptions(DATASETS.get(name)))


def _same(a: Any, b: Any) -> bool:
    """Bit by bit; of maps what they are, of functions nothing."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Bijector) and isinstance(b, Bijector):
        return a.describe() == b.describe()
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(map(_same, a, b))
    plain = (int, float, str, bool, type(None))
    return a == b if isinstance(a, plain) or isinstance(b, plain) else type(a) is type(b)
