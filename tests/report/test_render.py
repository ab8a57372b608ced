import io
import re
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import Tensor

import flowzoo.registry
from flowzoo.metrics import Column
from flowzoo.record import Record
from flowzoo.report.columns import rounded, significant
from flowzoo.report.render import (
    BOLD,
    blocks,
    to_csv,
    to_latex,
    to_markdown,
    to_terminal,
)
from flowzoo.report.table import Cell, Table, make_table

SHARED = 20 * torch.randn(300, generator=torch.Generator().manual_seed(0))
NOISE = 0.1 * torch.randn(300, generator=torch.Generator().manual_seed(1))
METRICS = {
    "context_use": 12.34,
    "sw": 0.0312,
    "sw_floor": 0.0298,
    "sample_seconds_per_1000": 0.5341,
    "num_parameters": 1234567,
    "train_seconds": 123.4,
    "roundtrip_error": 1.2345678901234567e-6,
}


def cell(model: str, log_prob: Tensor, *, seed: int = 0, dataset: str = "maps", drop: str = "", **more: float) -> Cell:
    values = {"nll_nats": -log_prob.double().mean().item(), **METRICS, **more}
    values["nll_per_dim"] = values["nll_nats"] / 64
    missing = {name: "it was not asked for" for name in drop.split()}
    values = {name: value for name, value in values.items() if name not in missing}
    record = Record(dataset, model, seed, "h", "ok", metrics=values, missing=missing, split_hash="0123456789abcdef")
    return Cell(record, {"log_prob": log_prob, "group": torch.arange(300) // 3})


def failed(model: str, reason: str, dataset: str = "maps") -> Cell:
    return Cell(Record(dataset, model, 0, "h", "failed", reason=reason), {})


@pytest.fixture
def table() -> Table:
    """The best, a tie, a loser and a failure."""
    tie = SHARED + NOISE - NOISE.mean() - 1e-4
    reason = "RuntimeError: " + "the solver did not converge; " * 8 + "loosen its tolerance"
    return make_table([cell("a_best", SHARED), cell("tie", tie), cell("loser", SHARED - 3), failed("broken", reason)])


def terminal(table: Table, width: int = 120, *, styled: bool = False) -> str:
    color: Any = "standard" if styled else None
    console = Console(width=width, file=io.StringIO(), force_terminal=styled, color_system=color)
    with console.capture() as capture:
        console.print(to_terminal(table))
    return capture.get()


def line_of(text: str, start: str) -> str:
    (line,) = [line for line in text.splitlines() if re.match(rf"(\x1b\[\d+m|\W)*{re.escape(start)}\b", line)][:1]
    return line


def test_best_is_bold_and_ties_too(table):
    text = terminal(table, styled=True)
    assert [("\x1b[1m" in line_of(text, model)) for model in ("a_best", "tie", "loser")] == [
        True,
        True,
        False,
    ]
    text = to_markdown(table)
    assert [("**" in line_of(text, m)) for m in (r"a\_best", "tie", "loser")] == [True, True, False]
    text = to_latex(table)
    assert r"\textbf{a\_best} & \textbf{" in text
    assert r"\textbf{tie} & \textbf{" in text
    assert r"\textbf{loser}" not in text


def test_what_bold_means_is_said(table):
    assert BOLD in " ".join(terminal(table).split())
    assert BOLD in to_markdown(table)
    assert BOLD in to_latex(table)


def test_bold_is_not_explained_where_nothing_is_bold():
    assert "bold" not in terminal(make_table([failed("maf", "no memory")]))


def test_headings_carry_units(table):
    (block,) = blocks(table)
    assert block.headings == [
        "model",
        "NLL ± SE (nats)",
        "NLL/dim (nats)",
        "ΔNLL ± SE (nats)",
        "context use (nats)",
        "SW (floor) (spreads)",
        "draws (s/1000)",
        "params",
        "train (s)",
        "status",
    ]


def test_values_are_rounded_to_their_errors(table):
    (block,) = blocks(table)
    best = dict(zip(block.headings, block.rows[0], strict=True))
    se = table.frame.nll_se[0]
    assert best["NLL ± SE (nats)"] == f"{table.frame.nll_nats[0]:.1f} ± {se:.1f}"
    assert best["SW (floor) (spreads)"] == "0.0312 (0.0298)"
    assert best["params"] == "1.23M"
    assert best["ΔNLL ± SE (nats)"] == "best"


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (1.23456, 0.0123, ("1.235", "0.012")),
        (1.23456, 0.0996, ("1.23", "0.10")),
        (-0.0004, 0.12, ("0.00", "0.12")),
        (98765.4, 3210.0, ("98800", "3200")),
        (148.7, 9.96, ("149", "10")),
        (1.5, float("nan"), ("1.500", "")),
        (0.0, 0.0, ("0.000", "0")),
        (0.5, 1e-9, ("0.500000", "1e-09")),
        (float("-inf"), float("nan"), ("-inf", "")),
    ],
)
def test_an_error_has_two_digits_and_sets_those_of_its_value(value, error, shown):
    assert rounded(value, error) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.05, "0.0500"),
        (12.0, "12.0"),
        (999.6, "1000"),
        (123456.7, "123457"),
        (3e9, "3.00e+09"),
        (-2.5e-7, "-2.50e-07"),
    ],
)
def test_numbers_without_an_error_have_three_digits(value, shown):
    assert significant(value) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (950, "950"), (999.6, "1.00k"), (12_345, "12.3k"), (999_600, "1.00M"), (2e9, "2.00G")],
)
def test_parameters_are_counted_in_thousands_and_millions(count, shown):
    (block,) = blocks(make_table([cell("maf", SHARED, num_parameters=count)]))
    assert block.rows[0][block.headings.index("params")] == shown


def test_bits_stand_in_for_nats_per_dimension_where_there_are_bits():
    bits, nats = blocks(make_table([cell("maf", SHARED, bits_per_dim=3.5), cell("maf", SHARED, dataset="moons")]))
    assert "bits/dim" in bits.headings
    assert "NLL/dim (nats)" not in bits.headings
    assert "NLL/dim (nats)" in nats.headings
    assert "bits/dim" not in nats.headings


def test_seed_error_is_shown_where_there_are_seeds():
    two = make_table([cell("maf", SHARED), cell("maf", SHARED + 1, seed=1)])
    assert "± seeds (nats)" in blocks(two)[0].headings
    assert blocks(two)[0].rows[0][2] == "0.50"
    assert "2 seeds" in blocks(two)[0].title
    assert "± seeds" not in to_markdown(make_table([cell("maf", SHARED)]))


def test_failed_cell_is_a_row_with_its_reason(table):
    text = terminal(table)
    assert line_of(text, "broken").split() == ["broken", "failed"]
    (reason,) = [line for line in text.splitlines() if line.startswith("broken failed: RuntimeError: the solver")]
    assert len(reason) <= 120
    assert reason.endswith("…")
    for whole in (to_csv(table), to_markdown(table), to_latex(table)):
        assert "loosen its tolerance" in whole


def test_missing_metric_is_blank_with_its_reason_beneath():
    table = make_table([cell("maf", SHARED), cell("nsf", SHARED - 1, drop="sw sw_floor context_use")])
    (block,) = blocks(table)
    assert block.rows[1][block.headings.index("SW (floor) (spreads)")] == ""
    assert block.rows[1][block.headings.index("context use (nats)")] == ""
    for text in (terminal(table), to_markdown(table), to_latex(table)):
        assert "context use, SW (floor) of nsf: it was not asked for" in text


def test_a_reason_that_holds_for_all_is_given_once():
    table = make_table([cell(m, SHARED, drop="context_use") for m in ("maf", "nsf")])
    assert blocks(table)[0].reasons == ["context use: it was not asked for"]


def test_no_footnote_says_that_continuous_data_have_no_bits(table):
    assert not [reason for reason in blocks(table)[0].reasons if "bits" in reason or "one seed" in reason]


def test_splits_that_differ_are_said_beneath():
    other = cell("nsf", SHARED)
    other.scores["group"] = torch.arange(300)
    table = make_table([cell("maf", SHARED), other])
    assert "ΔNLL ± SE: the splits differ" in terminal(table)
    assert "ΔNLL ± SE (nats)" not in blocks(table)[0].headings


def test_a_block_per_dataset_and_one_legend():
    table = make_table([cell("maf", SHARED), cell("maf", SHARED, dataset="moons")])
    text = terminal(table)
    assert [line.split(",")[0] for line in text.splitlines() if ", split 0123456789ab" in line] == [
        "maps",
        "moons",
    ]
    assert text.count("bold: ") == 1
    assert to_markdown(table).count("### ") == 2
    assert to_latex(table).count(r"\begin{table}") == 2


def test_the_legend_has_the_words_of_the_metrics(table):
    assert "context use: NLL with contexts shuffled between groups" in terminal(table)


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_a_narrow_terminal_drops_columns_and_cuts_no_number(table, width):
    text = terminal(table, width)
    assert max(map(len, text.splitlines())) <= width
    (block,) = blocks(table)
    row = line_of(text, "loser")
    assert "…" not in row
    assert block.rows[2][1] in row
    assert block.rows[2][block.headings.index("ΔNLL ± SE (nats)")] in row
    assert ("1.23M" in row) == ("params" not in "".join(re.findall("not shown at this width: (.*)", text)))


def test_everything_fits_into_120_characters():
    cells = [cell("normflows-nsf", SHARED - 1000 + i, seed=i, bits_per_dim=3.456) for i in range(2)]
    cells += [
        cell("galacticflow", SHARED - 1030 + NOISE, bits_per_dim=3.456),
        failed("ffjord", "out of memory"),
    ]
    assert "not shown" not in terminal(make_table(cells))


def test_markup_in_names_and_reasons_is_text():
    text = terminal(make_table([failed("[red]x[/red]", "expected [128, 5]; got [bold]")]))
    assert "[red]x[/red]" in text
    assert "got [bold]" in text


def test_csv_round_trips(table):
    back = pd.read_csv(io.StringIO(to_csv(table)), dtype={"split_hash": str})
    text = ["reason", "split_hash"]
    back[text] = back[text].fillna("")
    pd.testing.assert_frame_equal(back, table.frame, check_dtype=False, check_exact=True)


def test_csv_leaves_missing_values_empty(table):
    row = to_csv(table).splitlines()[-1].split(",")
    assert row[:5] == ["maps", "broken", "0", "", ""]
    assert "nan" not in to_csv(table).lower()


def test_csv_keeps_a_reason_of_several_lines_and_commas():
    reason = 'first, "quoted"\nsecond'
    back = pd.read_csv(io.StringIO(to_csv(make_table([failed("maf", reason)]))))
    assert back.reason[0] == reason


def test_markdown_rows_have_as_many_cells_as_headings(table):
    rows = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert len(rows) == 6
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {11}


def test_markdown_escapes():
    text = to_markdown(make_table([failed("a|b", "expected <int> | a*b_c\nsecond line")]))
    assert r"| a\|b |" in text
    assert r"expected \<int> \| a\*b\_c second line" in text


def test_latex_escapes():
    text = to_latex(make_table([failed("a_b", r"50% & $x_1$ #2 {y} ~ ^ \cmd <z>")]))
    assert r"a\_b & failed \\" in text
    assert (
        r"50\% \& \$x\_1\$ \#2 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}cmd "
        r"\textless{}z\textgreater{}" in text
    )


def test_latex_is_booktabs_with_true_minus_signs(table):
    table.frame.loc[0, "nll_nats"] = -12.5
    text = to_latex(table)
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"\textbf{$-$12.5 $\pm$" in text
    assert r"$\Delta$NLL $\pm$ SE (nats)" in text
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    assert {line.count("&") for line in body.splitlines() if line.endswith(r"\\")} == {9}
    assert text.isascii()


def test_no_cells_are_said_to_be_none():
    empty = make_table([])
    assert terminal(empty).strip() == "no cells"
    assert to_markdown(empty).strip() == ""
    assert to_latex(empty) == ""
    assert to_csv(empty).startswith("dataset,model,seeds")


POINTS = {"c2st": 0.5312, "c2st_floor": 0.4987, "mmd": 0.00123, "mmd_floor": -0.000214, "coverage": 0.9712}


def test_point_statistics_have_a_block_of_their_own():
    table = make_table([cell("maf", SHARED, **POINTS), cell("nsf", SHARED - 1)])
    _, block = blocks(table)
    assert block.title == "maps, point statistics"
    assert block.headings == ["model", "C2ST (floor)", "MMD² (floor)", "coverage (floor)"]
    assert block.rows[0] == ["maf", "0.531 (0.499)", "0.0012 (-0.00021)", "0.97"]
    assert "boosted trees" in " ".join(block.legend)


def test_point_statistics_fit_into_120_characters():
    widest = {"c2st": 0.5, "mmd": -1.2e-4, "ks": 0.058, "correlation_error": 0.042}
    widest |= {"pqm_chi2": 0.99, "coverage": 0.97}
    table = make_table([cell("normflows-nsf", SHARED, **widest, **{f"{k}_floor": v for k, v in widest.items()})])
    text = terminal(table)
    for shown in blocks(table)[1].rows[0]:
        assert shown in text
    assert "-0.00012 (-0.00012)" in text


def test_no_point_statistics_leave_no_block_and_no_footnote():
    columns = "sw mmd mmd_floor energy c2st c2st_floor coverage"
    (block,) = blocks(make_table([cell("maf", SHARED, drop=columns), cell("nsf", SHARED, drop=columns)]))
    assert block.reasons == ["SW (floor): it was not asked for"]


def test_model_without_point_statistics_beside_one_that_has_them_has_its_reason():
    table = make_table([cell("maf", SHARED, **POINTS), cell("nsf", SHARED, **POINTS, drop="c2st c2st_floor")])
    assert blocks(table)[1].reasons == ["C2ST of nsf: it was not asked for"]


def test_columns_of_metrics_of_others_have_a_block_of_their_own(monkeypatch):
    class Ours:
        columns = (
            Column("spread", "lower", "standard deviation of log q, nats", "spread_noise"),
            Column("spread_noise", "none", "the same of two halves"),
            Column("tail_p", "higher", "p-value of the tail", good=0.05, bad=0.001),
        )

    monkeypatch.setattr(flowzoo.registry.METRICS, "get", lambda name: Ours)
    monkeypatch.setattr(flowzoo.registry.METRICS, "names", lambda: ["ours"])
    numbers = {"spread": 0.5, "spread_noise": 0.25, "tail_p": 0.01}
    made = make_table([cell("a", SHARED, **numbers), cell("b", SHARED - 1, drop="tail_p", **numbers)])
    block = blocks(made)[-1]
    assert block.title == "maps, other metrics"
    assert block.headings == ["model", "spread (floor)", "tail_p"]
    assert block.rows == [["a", "0.500 (0.250)", "0.0100 doubtful"], ["b", "0.500 (0.250)", ""]]
    assert block.reasons == ["tail_p of b: it was not asked for"]
    assert block.legend == ["spread: standard deviation of log q, nats", "tail_p: p-value of the tail"]
    for text in (terminal(made), to_markdown(made), to_latex(made)):
        assert "other metrics" in text
