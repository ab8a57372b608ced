"""Put the tables of ``results/speed*.jsonl`` and ``scaling*.jsonl`` between the markers of README.md, with figures.

    python benchmarks/make_readme.py            # writes README.md and results/*.png
    python benchmarks/make_readme.py --check    # exits with 1 if they are not what would be written

What stands outside of the markers is written by hand. A figure carries the digest of the file that it was drawn from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from readme_parts import figures, tables
from readme_parts.tables import Line

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- tables:begin -->", "<!-- tables:end -->"

Figure = Callable[[list[Line], Path, str], None]


def speed_text(name: str, lines: list[Line]) -> str:
    """The section of a file that ``speed/run.py`` wrote."""
    parts = [f"## `results/{name}.jsonl`: our flows beside the libraries' own", tables.made(lines)]
    if any(line["what"] == "flow" for line in lines):
        parts += [
            "Time of a library's own flow over that of ours, with the same layers and weights, at a batch of "
            + " and of ".join(f"{batch:,}" for batch in tables.BATCHES)
            + ": above 1 ours is faster. Where the library took more time than there was, the ratio is at its largest "
            "batch, in brackets. Our draws come with their log q, whether it is asked for or not, and our steps with "
            "an average of the weights; nflows and normflows draw in float32, our flows of theirs in float64.",
            tables.compared(lines),
            f"![seconds per event against the batch](results/{name}.png)",
        ]
        skipped = tables.left_out(lines)
        if skipped:
            parts.append(f"<details><summary>What was left out, and why</summary>\n\n{skipped}\n\n</details>")
    if any(line["what"] == "galacticforge" for line in lines):
        parts += [
            "### GalacticForge: a training step of its configuration",
            "`configs/galacticforge.yaml`, batch 1,024, 20 contexts, beside an eager zuko NSF of equal size; the "
            "target is 1.3 on a CPU. With `31 contexts` events share so many, as the stars of 31 galaxies do; "
            "elsewhere each has its own.",
            tables.forge(lines),
        ]
    if any(line["what"] == "together" for line in lines):
        parts += [
            "### Five seeds at once over one",
            "Time of a step of five seeds by `vmap` over that of one seed, at several widths of the networks (weights "
            "of one flow in brackets). At 5 nothing is gained; the target is 4 on a CPU and 2 on a GPU.",
            tables.together(lines),
            f"![five seeds over one against the weights](results/{name}-together.png)",
            "Whole trainings, from `fit` and `fit_together`, with their validations:",
            tables.fits_together(lines),
        ]
    if any(line["what"] == "kernel" for line in lines):
        parts += [
            "### What a step spends its time in",
            "64-D, batch 1,024: the operation with the most time of its own, and its flops and bytes (inputs, each "
            "read once) a second over those of a large product of matrices and of a large copy on the same machine.",
            tables.kernels(lines),
        ]
    return "\n\n".join(part for part in parts if part)


def scaling_text(name: str, lines: list[Line]) -> str:
    """The section of a file that ``scaling.py`` wrote."""
    cells = [line for line in lines if line["what"] == "cell"]
    base = max(cells, key=lambda c: (c["n_train"], len(c["series"]), c["steps"]))
    failed = [c for c in cells if "failed" in c]
    return "\n\n".join(
        [
            f"## `results/{name}.jsonl`: excess NLL as the work grows",
            tables.made(lines),
            f"The base is {base['n_train']:,} training events, networks {base['width']} wide, {base['steps']:,} steps "
            "of 256 events; one of the three is varied at a time. Excess = mean of log p - log q over the same "
            "test events for all, and its error over these, in nats per event. alpha: of the power law excess ~ "
            "x^-alpha, with the range in which it was fitted; its error has the scatter about the line, and where that "
            "is large no power law holds. Of three points that error is itself known to a factor of two, and what "
            "another training set would give is in it only so far as it shows in the scatter. "
            "Where the excess still falls steeply with seconds, the steps limit the other two series at their ends.",
            tables.scaling(lines),
            *[f"- `{c['model']}` on {c['dataset']} failed: {c['failed']}" for c in failed],
            f"![excess NLL against training events, parameters and seconds](results/{name}.png)",
        ]
    )


def sections(results: Path) -> tuple[str, dict[Path, tuple[Figure, list[Line], str]]]:
    """The text between the markers, and how each figure is drawn, with the digest of what it shows."""
    texts: list[str] = []
    drawn: dict[Path, tuple[Figure, list[Line], str]] = {}
    for file in (*sorted(results.glob("speed*.jsonl")), *sorted(results.glob("scaling*.jsonl"))):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        source = hashlib.sha256(file.read_bytes()).hexdigest()
        whats = {line["what"] for line in lines}
        if file.stem.startswith("scaling"):
            texts.append(scaling_text(file.stem, lines))
            drawn[file.with_suffix(".png")] = figures.scaling, lines, source
            continue
        texts.append(speed_text(file.stem, lines))
        if "flow" in whats:
            drawn[file.with_suffix(".png")] = figures.speed, lines, source
        if "together" in whats:
            drawn[file.with_name(f"{file.stem}-together.png")] = figures.together, lines, source
    return "\n\n".join(texts), drawn


def source_of(path: Path) -> str:
    """The digest that a figure carries; empty if there is no such figure."""
    from PIL import Image

    if not path.exists():
        return ""
    with Image.open(path) as image:
        return str(image.info.get("Source", ""))


def main(arguments: list[str] | None = None) -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something is not up to date")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="with a folder results beside it")
    chosen = parser.parse_args(arguments)
    text = chosen.readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{chosen.readme}: must have one line {BEGIN} and one {END}, between which the tables go")
    before, rest = text.split(BEGIN)
    between, drawn = sections(chosen.readme.parent / "results")
    wanted = f"{before}{BEGIN}\n\n{between}\n\n{END}{rest.split(END)[1]}"
    stale = [chosen.readme] if wanted != text else []
    stale += [path for path, (_, _, source) in drawn.items() if source_of(path) != source]
    if chosen.check:
        for path in stale:
            print(f"{path}: not what `python benchmarks/make_readme.py` would write; run it", file=sys.stderr)
        return 1 if stale else 0
    chosen.readme.write_text(wanted)
    for path, (draw, lines, source) in drawn.items():
        draw(lines, path, source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
