"""Markdown of files of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Line = dict[str, Any]
WHATS = {"step": "training step", "log_prob": "log q", "sample": "draw"}
US, RESIDENT = "flowzoo", ", resident"
BATCHES = (1, 1_000)  # that the table shows; the figure has all
SERIES = {"n_train": "training events", "parameters": "parameters", "seconds": "seconds"}


def made(lines: Sequence[Line]) -> str:
    """Where the lines of a file are from."""
    first = lines[0]
    packages = ", ".join(f"{name} {first['versions'][name]}" for name in first["versions"] if name != "python")
    threads = f"{first['threads']} thread{'s' if first['threads'] > 1 else ''}"
    where = f"{first['machine']}, {threads} of {first['cores']} cores" if first["device"] == "cpu" else first["machine"]
    return f"    {first['command']}\n\n{where}; {packages}. Seconds are {first['clock']}."


def number(value: float | None) -> str:
    """A ratio in two digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}" if value < 0.995 else f"{value:.1f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> str:
    """Markdown; the first ``text`` columns to the left, figures to the right."""
    rule = ["---"] * text + ["---:"] * (len(heads) - text)
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rule, *rows))


def compared(lines: Sequence[Line]) -> str:
    """Time of a library's own flow over that of ours."""
    flows = [line for line in lines if line["what"] == "flow"]
    rows = []
    for flow in flows:
        row = [f"`{flow['model']}`", flow["library"], str(flow["D"]), _count(flow["parameters"])]
        for what, ending in (("step", ""), ("step", RESIDENT), ("log_prob", ""), ("sample", "")):
            row += [_over(lines, flow, what, flow["library"] + ending, batch) for batch in BATCHES]
        rows.append(row)
    heads = ["flow", "library", "D", "weights"]
    for what in ("step", "step, no loader", "log q", "draw"):
        heads += [f"{what}, {batch:,}" for batch in BATCHES]
    return table(heads, rows, text=2)


def _over(lines: Sequence[Line], flow: Line, what: str, library: str, batch: int) -> str:
    """The ratio at a batch; where the library was too slow for it that at its largest, with the batch."""
    own = [
        line
        for line in lines
        if (line["what"], line.get("model"), line.get("D"), line.get("library"))
        == (what, flow["model"], flow["D"], library)
        and line.get("ratio") is not None
        and line["batch"] <= batch
    ]
    if not own:
        return "-"
    last = max(own, key=lambda line: line["batch"])
    return number(last["ratio"]) + ("" if last["batch"] == batch else f" ({last['batch']:,})")


def left_out(lines: Sequence[Line]) -> str:
    """What was skipped or failed: from which batch on, and why."""
    first: dict[tuple[str, int, str, str], Line] = {}
    for line in lines:
        if line["what"] in WHATS and ("skipped" in line or "failed" in line):
            first.setdefault((line["what"], line["D"], line["model"], line["library"]), line)
    groups: dict[str, list[str]] = {}
    for (what, dim, model, library), line in first.items():
        why = (line.get("skipped") or line["failed"]).split(", more")[0].removeprefix("about ")
        group = f"- {WHATS[what]}, D = {dim}, from {line['batch']:,} on"
        groups.setdefault(group, []).append(f"`{model}` by {library.replace(', ', ' ')} ({why})")
    return "\n".join(f"{group}: {', '.join(found)}" for group, found in groups.items())


def forge(lines: Sequence[Line]) -> str:
    """The GalacticForge configuration."""
    own = [line for line in lines if line["what"] == "galacticforge" and "ratio" in line]
    rows = [[line["library"], f"{line['parameters']:,}", str(line["rounds"]), number(line["ratio"])] for line in own]
    return table(["flow", "weights", "rounds", "time over ours"], rows) if rows else ""


def together(lines: Sequence[Line]) -> str:
    """Five seeds at once over one, by the width of the networks."""
    own = [line for line in lines if line["what"] == "together" and "ratio" in line]
    widths = sorted({line["width"] for line in own})
    crossings = {(c["model"], c["batch"]): c for c in lines if c["what"] == "together, as five alone"}
    rows = []
    for model, batch in dict.fromkeys((line["model"], line["batch"]) for line in own):
        at = {line["width"]: line for line in own if (line["model"], line["batch"]) == (model, batch)}
        row = [f"`{model}`", f"{batch:,}"]
        row += [f"{at[w]['ratio']:.1f} ({_count(at[w]['parameters'])})" if w in at else "-" for w in widths]
        cross = crossings.get((model, batch))
        row.append("-" if cross is None or cross["weights"] is None else _count(cross["weights"]))
        rows.append(row)
    refused = {line["model"]: line["skipped"] for line in lines if line["what"] == "together" and "skipped" in line}
    text = table(["flow", "batch", *(f"width {w}" for w in widths), "5 reached at"], rows)
    return text + "".join(f"\n\n`{model}` is trained alone: {why[:90]}" for model, why in refused.items())


def fits_together(lines: Sequence[Line]) -> str:
    """Whole trainings of five seeds over one."""
    own = [line for line in lines if line["what"] == "together, fit"]
    rows = [[f"`{c['model']}`", f"{c['n_train']:,}", str(c["steps"]), number(c["ratio"])] for c in own]
    return table(["flow", "training events", "steps", "five seeds over one"], rows) if rows else ""


def kernels(lines: Sequence[Line]) -> str:
    """The operation that takes most of a step, beside what the machine can do."""
    own = [line for line in lines if line["what"] == "kernel" and "operation" in line]
    peak = next((line for line in lines if line["what"] == "hardware"), None)
    if not own or peak is None:
        return ""

    def share(line: Line, key: str) -> str:
        return "-" if line[key] is None else f"{100 * line[key] / peak[key]:.0f} %"

    rows = [
        [
            f"`{c['model']}`",
            f"`{c['operation']}`",
            f"{100 * c['share']:.0f} %",
            *(share(c, key) for key in ("flops_per_second", "bytes_per_second")),
        ]
        for c in own
    ]
    return table(["flow", "operation", "of the step", "of the flops of a product", "of the bytes of a copy"], rows, 2)


def scaling(lines: Sequence[Line]) -> str:
    """Exponents of the power laws, and the excess at the base."""
    fits = {(c["dataset"], c["model"], c["against"]): c for c in lines if c["what"] == "fit"}
    cells = [line for line in lines if line["what"] == "cell"]
    rows = []
    for dataset, model in dict.fromkeys((c["dataset"], c["model"]) for c in cells):
        own = [c for c in cells if (c["dataset"], c["model"]) == (dataset, model) and "excess" in c]
        base = max(own, key=lambda c: (c["n_train"], len(c["series"])), default=None)
        row = [dataset, f"`{model}`", "-" if base is None else f"{base['excess']:.2g} ± {base['excess_se']:.1g}"]
        for series in SERIES:
            fit = fits.get((dataset, model, series))
            row.append("-" if fit is None else _exponent(fit))
        rows.append(row)
    heads = ["data", "flow", "excess at the base (nats)", *(f"alpha, {text}" for text in SERIES.values())]
    return table(heads, rows, text=2)


def _exponent(fit: Line) -> str:
    low, high = (f"{value:.2g}" if value < 100 else _count(value) for value in (fit["low"], fit["high"]))
    return f"{fit['exponent']:.2f} ± {fit['error']:.2f} ({low} to {high}, {fit['points']} points)"


def _count(value: float) -> str:
    """As 105k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
