"""``flowzoo sample``: catalogues of particles, or images, drawn context by context in bounded memory."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from flowzoo import __version__, progress
from flowzoo.config import ConfigError
from flowzoo.flow import ConditionalFlow
from flowzoo.harness._galaxies import Galaxies, check_contexts, from_training_data, label
from flowzoo.harness._image_files import NUMBERS, check_ending, from_file, rows_together
from flowzoo.harness._rows import rebatched
from flowzoo.harness._trained import Trained, open_trained
from flowzoo.harness._writers import Column, check_target, table_writer
from flowzoo.harness.run import cpu_threads
from flowzoo.harness.source import resolve_device
from flowzoo.seeding import generator

CHUNK = 2**16
SMALLEST, LARGEST = 64, 2**14  # events of the first block, and of the last ones
CONTEXT_NUMBERS = 2**25  # of a block, whose context is repeated for each event: an image is large
FEWEST = 8  # images of the first block: of few all may be wanted, and each takes as long as many particles


@dataclass(frozen=True)
class Sampled:
    """What was drawn.

    Args:
        path: the file.
        rows: particles in it.
        galaxies: that they are of.
        lost: draws that are not finite, and NaN in the file.
        flow: which flow drew them.
    """

    path: Path
    rows: int
    galaxies: int
    lost: int
    flow: str


def draws(flow: ConditionalFlow, context: Tensor, count: int, *, seed: int, galaxy: str | int) -> Iterator[Tensor]:
    """Events of one galaxy, in blocks.

    The noise of block k comes from a generator of its own, ``generator(seed, "sample", galaxy, k)``, and a block is
    always drawn whole: 64 events, then 128, 256, and so on to 16,384; of images 8, 8, 16, 32, and so on to 4 million
    numbers. So the draws of a galaxy depend on nothing but the flow, the context, the seed and its id, bit for bit; and
    the first thousand are the same whether or not more are wanted.

    Args:
        flow: on any device.
        context: ``(*context)``, one.
        count: events wanted.
        seed: of the noise.
        galaxy: its id; 7 and "7" are one galaxy.

    Yields:
        ``(n, *event)`` with n of at most 16,384, in data units. What has no finite preimage is NaN, without a warning.
    """
    done = 0
    for block, size in enumerate(_sizes(flow, context)):
        if done >= count:
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*have no finite preimage.*")  # whoever takes them counts them
            drawn = flow.sample(context, (size,), generator=generator(seed, "sample", str(galaxy), block))
        yield drawn[: count - done]
        done += size


def _sizes(flow: ConditionalFlow, context: Tensor) -> Iterator[int]:
    """Events of one block after another, without end."""
    largest = min(LARGEST, max(SMALLEST, CONTEXT_NUMBERS // max(1, context.numel())))
    smallest, first = SMALLEST, 1
    if len(flow.event_shape) > 1:
        smallest, first = FEWEST, 2
        largest = max(FEWEST, min(largest, NUMBERS // flow.event_shape.numel()))
    yield from itertools.repeat(smallest, first)
    size = smallest
    while True:
        size = min(2 * size, largest)
        yield size


def sample_catalogue(
    run: str | Path,
    out: str | Path,
    *,
    galaxies: str | Path | None = None,
    n: int | None = None,
    count: str | None = None,
    part: str = "test",
    model: str | None = None,
    id_column: str | None = None,
    seed: int = 0,
    chunk: int = CHUNK,
    device: str = "auto",
    threads: int = 1,
    overwrite: bool = False,
    warn: Callable[[str], None] = warnings.warn,
) -> Sampled:
    """Draw particles for galaxies and write them as a table: id, columns of the event, columns of the context.

    Images are written as one array ``x`` ``(rows, C, H, W)`` beside the columns of the context. The memory needed does
    not grow with the number of particles, but for .npz, which is written whole. The draws of a galaxy do not depend on
    the chunk size or on the other galaxies (see ``draws``).

    Args:
        run: a file that ``fit`` or ``bench`` wrote, or the directory of a bench.
        out: .h5, .parquet, .npz or .csv, for images .h5 or .npz; there whole, or not at all.
        galaxies: table with the columns of the context, a row per galaxy, or of contexts that are images .h5 or .npz
            with an array ``context``; None takes the galaxies of the data that the flow was trained on.
        n: particles of each galaxy.
        count: or the column of ``galaxies`` that says how many; with neither, those of the training data have their own
            numbers.
        part: of the training data: ``test``, ``validation``, ``train`` or ``all``.
        model: of a run directory, take a flow of this model; by default of that which its verdict takes.
        id_column: of ``galaxies``; by default ``id`` if there is one, else the row.
        seed: of the noise.
        chunk: rows that are written together; of images fewer, if these are large.
        device: ``auto`` takes the first GPU if there is one.
        threads: of torch on the CPU.
        overwrite: whether a file of that name may be replaced.
        warn: called with a line on far contexts, and one on draws that are not finite.

    Raises:
        FileNotFoundError: if a file is not there.
        CheckpointError: if the flow's file is damaged.
        ConfigError: for what else is wrong, in one line.
    """
    out = Path(out)
    check_target(out, overwrite=overwrite)
    _check(galaxies, n, count, chunk)
    trained = open_trained(run, model=model, device=resolve_device(device))
    if trained.images:
        shape = tuple(trained.flow.event_shape)
        check_ending(out, "--out", "images", trained.names[0], shape)
        chunk = rows_together(chunk, shape)
    if galaxies is not None:
        chosen = from_file(galaxies, trained, id_column=id_column, n=n, count=count)
    else:
        chosen = from_training_data(trained, part=part, n=n, id_name=id_column or "id")
    if not chosen.counts.sum():
        raise ConfigError(f"no context of {galaxies or part} shall have an event; give --n")
    check_contexts(chosen, trained, warn)
    columns = _columns(trained, chosen)
    about = {
        "flow": trained.path.name,
        "model": trained.meta["flow"]["model"],
        "seed": seed,
        "version": __version__,
        "context": dict(zip(trained.written_names, trained.context_names or (), strict=True)),
        **trained.of_channels(),
    }
    lost = _Lost()
    with (
        cpu_threads(threads),
        progress.bar("sample", int(chosen.counts.sum())) as update,
        table_writer(out, columns, overwrite=overwrite, about=about) as write,
    ):
        rows = 0
        for part_ in rebatched(_rows(trained, chosen, seed, lost), chunk):
            write(part_)
            rows += len(part_[0])
            update(rows, "")
    if lost.count:
        warn(
            f"{lost.count} of {rows} draws have no finite value, most of context {label(lost.galaxy)} ({lost.most}): "
            "the inverse of the flow failed there, and they are NaN in the file"
        )
    drawn = int((chosen.counts > 0).sum())
    return Sampled(out, rows, drawn, lost.count, trained.note)


@dataclass
class _Lost:
    """Draws that are not finite, and the galaxy that has most of them."""

    count: int = 0
    most: int = 0
    galaxy: str = ""


def _check(galaxies: str | Path | None, n: int | None, count: str | None, chunk: int) -> None:
    if n is not None and count is not None:
        raise ConfigError(f"--n {n} and --count {count} both say how many; give one of them")
    if galaxies is None and count is not None:
        raise ConfigError(f"--count {count} is a column of --contexts, which is not given")
    if galaxies is not None and n is None and count is None:
        raise ConfigError("how many events? Give --n, the same for each context, or --count, a column of the table")
    if n is not None and n < 1:
        raise ConfigError(f"--n must be at least 1; got {n}")
    if chunk < 1:
        raise ConfigError(f"--chunk must be at least 1; got {chunk}")


def _columns(trained: Trained, chosen: Galaxies) -> list[Column]:
    written = trained.written_names
    if chosen.id_name in (*trained.names, *written):
        raise ConfigError(f"the flow has a column '{chosen.id_name}', which is no id; name that of the ids with --id")
    shape = tuple(trained.flow.event_shape) if trained.images else ()
    return [
        Column(chosen.id_name, chosen.ids.dtype, repeats=True),
        *(Column(n, trained.dtype, u, shape=shape) for n, u in zip(trained.names, trained.units, strict=True)),
        *(Column(n, trained.dtype, u, repeats=True) for n, u in zip(written, trained.context_units, strict=True)),
    ]


def _rows(trained: Trained, chosen: Galaxies, seed: int, lost: _Lost) -> Iterator[list[np.ndarray]]:
    """The table's columns, of images the array, a block of one galaxy at a time."""
    for galaxy, context, count in zip(chosen.ids, chosen.contexts, chosen.counts, strict=True):
        given = context.numpy().astype(trained.dtype) if trained.written_names else np.zeros(0, trained.dtype)
        here = 0
        for events in draws(trained.flow, trained.on_device(context), int(count), seed=seed, galaxy=galaxy):
            x = events.cpu().numpy().astype(trained.dtype, copy=False)
            size = len(x)
            here += int((~np.isfinite(x)).reshape(size, -1).any(1).sum())
            parts = [x] if trained.images else x.T
            yield [np.full(size, galaxy, chosen.ids.dtype), *parts, *(np.full(size, value) for value in given)]
        lost.count += here
        if here > lost.most:
            lost.most, lost.galaxy = here, str(galaxy)
