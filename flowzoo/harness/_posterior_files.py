"""What ``flowzoo infer`` writes: draws, numbers, pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from flowzoo import __version__
from flowzoo.inference import Inferred
from flowzoo.storage import write_atomic

SAMPLES, SUMMARY = "samples.npz", "summary.json"
PICTURES = 12  # observations at most whose corner plots are drawn


def write_posteriors(
    out: Path,
    found: Inferred,
    names: Sequence[str],
    units: Sequence[str],
    truth: Tensor | None,
    bounds: tuple[Tensor, Tensor] | None,
    summary: list[dict[str, Any]],
    path: Path,
    warned: Sequence[str],
) -> list[Path]:
    """Write ``samples.npz``, ``summary.json`` and corner plots; those of an earlier call go.

    Args:
        out: folder.
        found: of K observations.
        names: of the D parameters.
        units: of the same.
        truth: ``(K, D)`` where it is known.
        bounds: of the prior, ``(D,)`` each.
        summary: by observation.
        path: the flow's file.
        warned: everything that was.

    Returns:
        The files.
    """
    from flowzoo.report.figures_posterior import draw_posterior

    content = io.BytesIO()
    arrays = {"theta": found.theta.transpose(0, 1), "log_prob": found.log_prob.T}
    arrays |= {} if truth is None else {"truth": truth}
    arrays |= {} if found.log_evidence is None else {"log_evidence": found.log_evidence}
    known: dict[str, Any] = {k: v.cpu().numpy() for k, v in arrays.items()}
    np.savez_compressed(content, names=np.array(names), **known)
    write_atomic(out / SAMPLES, content.getvalue())
    about = {
        "flow": str(path),
        "method": found.method,
        "draws": len(found.theta),
        "version": __version__,
        "warnings": list(warned),
        "observations": summary,
    }
    write_atomic(out / SUMMARY, json.dumps(about, indent=1, allow_nan=False).encode())
    files = [out / SAMPLES, out / SUMMARY]
    count = found.theta.shape[1]
    for left in out.glob("corner*.png"):  # of an earlier call, of other observations
        if left.stem == "corner" or left.stem.removeprefix("corner-").isdigit():
            left.unlink()
    for k in range(min(count, PICTURES) if len(found.theta) > 1 else 0):  # a single draw has no density
        if bool(found.theta[:, k].isnan().any()):  # nor has an observation without a posterior
            continue
        of = None if truth is None else truth[k].cpu()
        title = f"observation {k}" if count > 1 else ""
        draws, best = found.theta[:, k].cpu(), found.best[k].cpu()
        figure = draw_posterior(draws, names, units, truth=of, best=best, bounds=bounds, title=title)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=150)
        files.append(out / (f"corner-{k}.png" if count > 1 else "corner.png"))
        write_atomic(files[-1], content.getvalue())
    return files
