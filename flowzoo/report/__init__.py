"""The report of a run: the comparative table, its renderings and what it means, the figures, and all on one page."""

from flowzoo.report.figures import figures, write_figures
from flowzoo.report.folds import join_folds, joined_hash
from flowzoo.report.page import to_html
from flowzoo.report.render import to_csv, to_latex, to_markdown, to_terminal
from flowzoo.report.table import Cell, Missing, Table, make_table, read_cells
from flowzoo.report.verdict import Verdict, verdicts
from flowzoo.report.words import word

__all__ = [
    "Cell",
    "Missing",
    "Table",
    "Verdict",
    "figures",
    "join_folds",
    "joined_hash",
    "make_table",
    "read_cells",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
    "to_terminal",
    "verdicts",
    "word",
    "write_figures",
]
