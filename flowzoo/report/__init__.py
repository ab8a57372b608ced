"""The report of a run: the comparative table and its renderings, and the figures."""

from flowzoo.report.figures import figures, write_figures
from flowzoo.report.folds import join_folds, joined_hash
from flowzoo.report.render import to_csv, to_latex, to_markdown, to_terminal
from flowzoo.report.table import Cell, Missing, Table, make_table, read_cells
from flowzoo.report.words import word

__all__ = [
    "Cell",
    "Missing",
    "Table",
    "figures",
    "join_folds",
    "joined_hash",
    "make_table",
    "read_cells",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_terminal",
    "word",
    "write_figures",
]
