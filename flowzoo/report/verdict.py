"""What a table means, in words: which flow to take, and what to know of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flowzoo.metrics import Column
from flowzoo.record import BASELINE
from flowzoo.report._floors import PLAIN, beside_floor
from flowzoo.report.columns import FIELDS, Row, by_dataset, has, name_of, plus_minus, significant
from flowzoo.report.figures_training import HISTORY
from flowzoo.report.table import Cell, Table, is_p
from flowzoo.report.words import BAD, DOUBTFUL, GOOD, word

# What the posteriors are, by the word for the p-value of all calibration tests together.
_POSTERIORS = {
    GOOD: "pass the calibration tests",
    DOUBTFUL: "are in doubt by the calibration tests",
    BAD: "fail the calibration tests: their error bars are not to be believed",
}


_TRUTH = "log_posterior_truth"
_BASELINE = "the linear-Gaussian baseline"
# What has a floor that falls to it: of both R^2 more is better.
_DISTANCES = tuple(shown for shown in FIELDS if not shown.sources[0].endswith("_r2"))
SHOWN = 3  # differences that are named
FEW = 10  # test groups, below which an error of a mean may easily be off by half


@dataclass(frozen=True)
class Verdict:
    """The findings on one dataset.

    Args:
        dataset: its name.
        take: the model to take, empty if none has a score: of the best and those tied with it the first, by NLL, of
            which no column is bad, or else the best. Where NLLs do not compare, that of the highest log q(truth).
        lines: the findings, a sentence or two each, without a full stop at their end; the first is on the fit.
    """

    dataset: str
    take: str
    lines: tuple[str, ...]


def verdicts(table: Table, cells: Sequence[Cell] = ()) -> list[Verdict]:
    """One for each dataset, in the order of the table.

    The words good, doubtful and bad are those of the columns' thresholds (``flowzoo metrics`` lists the columns).
    Nothing is said of what was not computed.

    Args:
        table: the comparison.
        cells: what it was made of, for what is to be said of trainings.
    """
    return [
        _verdict(dataset, rows, [cell for cell in cells if cell.record.dataset == dataset], _untested(table, dataset))
        for dataset, rows in by_dataset(table).items()
    ]


def _verdict(dataset: str, rows: list[Row], cells: Sequence[Cell], untested: Mapping[str, str]) -> Verdict:
    best = next((row for row in rows if row["best"]), None)
    scored = [row for row in rows if has(row, "nll_nats")]
    apart = [row["model"] for row in scored if best is None or row["split_hash"] != best["split_hash"]]
    apart = apart if len({row["split_hash"] for row in scored}) > 1 else []
    lost = []
    for status, words in (("failed", "failed"), ("partial", "failed for some seeds")):
        names = [row["model"] for row in rows if row["status"] == status]
        lost += [f"{_and(names)} {words}: the reasons are beside the table"] if names else []
    by_truth = sorted((row for row in rows if has(row, _TRUTH)), key=lambda row: -row[_TRUTH])
    if apart and len(by_truth) == len(scored):
        lines = [*_by_posterior(by_truth), *_calibration(rows, by_truth[0]), *_unfinished(rows, cells)]
        return Verdict(dataset, by_truth[0]["model"], (*lines, *lost))
    if apart and best is not None:
        were = "was" if len(apart) == 1 else "were"
        lost.append(f"{_and(apart)} {were} scored on other events than {best['model']}: their NLLs do not compare")
    if best is None:
        return Verdict(dataset, "", tuple(lost) or ("No model can be compared: the reasons are beside the table",))
    near = [row for row in rows if row["tied"]]
    judged = {row["model"]: _bad_columns(row) for row in near}
    sound = [row for row in near if not judged[row["model"]]]
    take = (sound or [best])[0]
    found = [
        *_fit(rows, best, near),
        *_baseline(rows, best, near),
        *_choice(take, best, judged),
        *_excess(take),
        *_context(take),
        *_draws(take, cells),
        *_maps(take),
        *(_calibration(rows, take) or _why_untested(take, untested)),
        *_unfinished(rows, cells),
        *_few(cells),
    ]
    return Verdict(dataset, take["model"], (*found, *lost))


def _by_posterior(ranked: list[Row]) -> list[str]:
    """Where NLLs are of different events: of theta for one flow and of x for another, or of two splits."""
    first, second = ranked[0], ranked[1]
    errors = [row.get(f"{_TRUTH}_se", math.nan) for row in (first, second)]
    values = [plus_minus(row[_TRUTH], error) for row, error in zip((first, second), errors, strict=True)]
    ahead = first[_TRUTH] - second[_TRUTH] > 2 * math.hypot(*errors)  # also where there are none
    return [
        "The NLLs are of different events (those of theta and of x are, and those of two splits) and do not compare; "
        f"log q of the true parameters does: {first['model']} has the highest, {values[0]} nats, before "
        f"{second['model']} with {values[1]}" + ("" if ahead else ", which these errors do not tell apart")
    ]


def _fit(rows: list[Row], best: Row, near: list[Row]) -> list[str]:
    name, nll = best["model"], plus_minus(best["nll_nats"], best["nll_se"])
    text = f"{name} has the lowest NLL of events that no training saw, {nll} nats an event"
    others = [row["model"] for row in near if row is not best]
    if others:
        return [f"{text}; {_and(others)} {'is' if len(others) == 1 else 'are'} within two standard errors of it"]
    further = [row for row in rows if row is not best and has(row, "delta_nll")]
    if not further:
        return [text]
    second = further[0]
    name = _BASELINE if second["model"] == BASELINE else second["model"]
    ahead = f"{text}, {plus_minus(second['delta_nll'], second['delta_se'])} less than {name}"
    if math.isnan(second["delta_se"]):
        return [f"{ahead}; of one test group no error is known, and another group may tell otherwise"]
    return [ahead]


def _baseline(rows: list[Row], best: Row, near: list[Row]) -> list[str]:
    baseline = next((row for row in rows if row["model"] == BASELINE and has(row, "delta_nll")), None)
    if baseline is None or len(rows) == 1:
        return []
    if baseline is best:
        return ["No flow is better than this linear-Gaussian baseline: none is needed, or more training or data are"]
    if baseline in near:
        return [
            "The linear-Gaussian baseline is as good within two standard errors: no flow is needed, or none trained"
        ]
    if near == [best] and baseline is next(row for row in rows if row is not best and has(row, "delta_nll")):
        return []  # said with the lead of the best
    gain = plus_minus(baseline["delta_nll"], baseline["delta_se"])
    return [f"The linear-Gaussian baseline is {gain} nats behind it"]


def _choice(take: Row, best: Row, judged: Mapping[str, list[str]]) -> list[str]:
    """Why another than the best is taken, or what is bad of the one that is."""
    wrong = judged[best["model"]]
    if not wrong:
        return []
    if take is not best:
        return [f"{best['model']} is bad in {_and(wrong)}, and {take['model']} in nothing"]
    return [
        f"It is bad in {_and(wrong)}, as all are that are as good" if len(judged) > 1 else f"It is bad in {_and(wrong)}"
    ]


def _few(cells: Sequence[Cell]) -> list[str]:
    """Errors are of the scatter between test groups, of which there must be some."""
    counts = [len(cell.scores["group"].unique()) for cell in cells if "group" in cell.scores]
    least = min(counts, default=FEW)
    return [f"Its test groups are {least}: errors from so few are themselves guesses"] if 1 < least < FEW else []


def _excess(row: Row) -> list[str]:
    if not has(row, "excess_nll"):
        return []
    return [f"{row['model']} is {significant(row['excess_nll'])} nats an event above the exact density"]


def _context(row: Row) -> list[str]:
    if has(row, "context_gain"):
        gain, se = row["context_gain"], row["context_gain_se"]
        text = f"Trained without its context it is {plus_minus(gain, se)} nats worse"
        if gain <= 2 * se:
            return [f"{text}: no gain that is sure"]
        return [text]
    if has(row, "context_use") and row["context_use"] <= 0:
        return ["With contexts exchanged between groups it scores no worse: it makes no use of its context"]
    return []


def _draws(row: Row, cells: Sequence[Cell]) -> list[str]:
    """By C2ST, or else by the sliced Wasserstein distance, how far its draws are from test events, beside the floor."""
    if has(row, "c2st_floor"):
        name, text = "c2st", f"A classifier tells its draws from test events in {significant(row['c2st'])} of the cases"
    elif has(row, "sw") and has(row, "sw_floor"):
        name, text = "sw", f"Its draws are {significant(row['sw'])} spreads from the test events by sliced Wasserstein"
    else:
        return []
    floor = row[f"{name}_floor"]
    beside = beside_floor(name, row[name], floor, [cell for cell in cells if cell.record.model == row["model"]])
    return [f"{text}{beside and f', {beside}'} ({significant(floor)}: real from real)"]


def _maps(row: Row) -> list[str]:
    """Of images: in which field statistics they differ plainly from real ones."""
    found = [shown for shown in _DISTANCES if all(has(row, source) for source in shown.sources)]
    if not found:
        return []
    ratios = {shown: row[shown.sources[0]] / row[shown.sources[1]] for shown in found if row[shown.sources[1]] > 0}
    plain = sorted((shown for shown in ratios if ratios[shown] >= PLAIN), key=lambda shown: -ratios[shown])
    if not plain:
        of = f"all {len(found)} field statistics" if len(found) > 1 else name_of(found[0].heading)
        return [f"Its maps are off by less than twice the floor (real from real) in {of}"]
    named = [f"{name_of(shown.heading)} ({significant(ratios[shown], 2)} floors)" for shown in plain[:SHOWN]]
    named += [f"{len(plain) - SHOWN} more"] if len(plain) > SHOWN else []
    return [f"Its maps are off by twice the floor (real from real) or more in {_and(named)}"]


def _untested(table: Table, dataset: str) -> dict[str, str]:
    """Why posteriors were not judged, by model, where they could have been."""
    found = {
        entry.model: entry.reason
        for entry in table.missing
        if (entry.dataset, entry.column) == (dataset, "calibration_p")
    }
    return {model: reason for model, reason in found.items() if "has no prior" not in reason}


def _why_untested(take: Row, untested: Mapping[str, str]) -> list[str]:
    reason = untested.get(take["model"])
    return [f"Whether posteriors by it are calibrated is not known: {reason}"] if reason else []


def _calibration(rows: list[Row], take: Row) -> list[str]:
    """Of the one to take, and who else's posteriors pass, where its own do not."""
    said = _said(take, "calibration_p")
    if not said:
        return []
    p = significant(take["calibration_p"], 2)
    text = f"The posteriors of {take['model']} {_POSTERIORS[said]} (p = {p})"
    able = [row["model"] for row in rows if _said(row, "calibration_p") == GOOD]
    return [f"{text}; those of {_and(able)} pass" if said != GOOD and able else text]


def _unfinished(rows: list[Row], cells: Sequence[Cell]) -> list[str]:
    gains = {cell.record.model: _late_gain(cell) for cell in cells}
    found = [row["model"] for row in rows if gains.get(row["model"], 0.0) > row["nll_se"]]
    if not found:
        return []
    return [f"More steps are worth it: the last tenth of them gained {_and(found)} more than the error of the NLL"]


def _late_gain(cell: Cell) -> float:
    """What the last tenth of the steps has brought on the validation split, nats; 0 without a history."""
    history = cell.scores.get(HISTORY)
    if history is None or len(history) < 2:
        return 0.0
    step, validation = history[:, 0], history[:, 2]
    return float(validation[step <= 0.9 * step[-1]].min() - validation[-1])


def _bad_columns(row: Row) -> list[str]:
    # What has a noise floor is judged beside it, and by no threshold.
    found = [name for name, known in _known().items() if _said(row, name) == BAD and not has(row, known.floor or "")]
    # The family of calibration tests stands for its members, of which one in many is bad by chance.
    tests = [name for name in found if is_p(name)]
    family = ["calibration"] if "calibration_p" in tests else []
    return [name for name in found if name not in tests] + family


def _said(row: Row, column: str) -> str:
    known = _known().get(column)
    return word(known, row[column]) if known is not None and has(row, column) else ""


def _known() -> dict[str, Column]:
    from flowzoo.metrics import columns  # every metric's file: when a table is read, not before

    try:
        return columns()
    except ImportError:  # a metric of a third party lacks its package: the numbers still stand
        return {}


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
