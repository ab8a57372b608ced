"""Files that hold tensors and JSON: safetensors, checksummed, written atomically. Nothing is ever unpickled.

A file's header carries one JSON text and a SHA-256 over that text and over every tensor's name, dtype, shape and
bytes, because safetensors itself loads a flipped bit without complaint.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowzoo import bijectors
from flowzoo.config import ConfigError
from flowzoo.flow import ConditionalFlow
from flowzoo.models import build
from flowzoo.registry import UnknownName
from flowzoo.storage import write_atomic

FORMAT = 1


class CheckpointError(ValueError):
    """A file that is not a whole checkpoint of ours."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able metadata as one file, whole or not at all."""
    from safetensors.torch import save as to_bytes

    # clones: safetensors refuses tensors that share memory
    on_host = {k: t.detach().to("cpu", copy=True).contiguous() for k, t in tensors.items()}
    text = json.dumps(dict(meta), sort_keys=True)
    header = {"flowzoo": text, "sha256": _digest(text, on_host)}
    write_atomic(path, to_bytes(on_host, metadata=header))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is truncated, altered, or not ours.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        # Of a run directory: the scores in its cells/ are no flows.
        found = [p for folder in (path, path / "checkpoints") for p in sorted(folder.glob("*.safetensors"))]
        flows = [str(p) for p in found if ".state." not in p.name]
        hint = (
            f"give one file, such as {', '.join(flows[:3])}"
            if flows
            else "there is no flow in it; give the file of one"
        )
        raise CheckpointError(f"{path} is a folder; {hint}")
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    # torch's RuntimeError: it opens the file again, and another may be in its place by then.
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({error})") from None
    if "flowzoo" not in header:
        raise CheckpointError(f"{path}: a safetensors file, but not one of flowzoo's")
    if header.get("sha256") != _digest(header["flowzoo"], tensors):
        raise CheckpointError(f"{path}: its checksum does not match: the file was altered or damaged")
    try:
        meta = json.loads(header["flowzoo"])
        if not isinstance(meta, dict):
            raise TypeError(f"a {type(meta).__name__} instead of a mapping")
    except (ValueError, TypeError, RecursionError) as error:  # its checksum is right: nobody damaged it by chance
        raise CheckpointError(f"{path}: its metadata cannot be read ({error})") from None
    return tensors, meta


def save(flow: ConditionalFlow, path: str | Path, **meta: Any) -> None:
    """Write a flow with all that is needed to use it: weights, fixed maps, shapes, options.

    Args:
        flow: built by ``flowzoo.build`` (its recipe is stored, not its code).
        path: the file; by convention it ends in ``.safetensors``.
        **meta: anything JSON-able to keep with it, such as the dataset it was trained on.

    Raises:
        ValueError: if the flow was not built by ``flowzoo.build``, or ``meta`` has a name that a checkpoint uses.
    """
    if flow.recipe is None:
        raise ValueError("only flows made by flowzoo.build can be saved: there is no recipe to build this one again")
    if taken := sorted({"format", "flow", "versions"} & meta.keys()):
        raise ValueError(f"a checkpoint has a '{taken[0]}' of its own; give that by another name")
    dtype = next(flow._tensors(), torch.empty(0)).dtype
    save_tensors(
        Path(path),
        flow.state_dict(),
        {
            "format": FORMAT,
            "flow": {
                **flow.recipe,
                "event_shape": list(flow.event_shape),
                "context_shape": list(flow.context_shape),
                "x_map": flow.x_map.describe(),
                "context_map": flow.context_map.describe(),
                "dtype": str(dtype).removeprefix("torch."),
            },
            "versions": versions(),
            **meta,
        },
    )


def load(path: str | Path, *, device: torch.device | str = "cpu") -> ConditionalFlow:
    """A flow from a file that ``save``, ``flowzoo fit`` or ``flowzoo bench`` wrote; nothing else is needed.

    It can be trained on, so its scores come with a gradient; inside ``torch.no_grad()`` they do without, take less
    memory, and numpy takes them. Draws never have one.

    Args:
        path: the file.
        device: where the flow will live.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is damaged or not a flow.
        UnknownName: if nothing in this process registers its model.
    """
    tensors, meta = load_tensors(Path(path))
    if meta.get("format") != FORMAT or "flow" not in meta:
        raise CheckpointError(f"{path}: holds no flow of format {FORMAT}")
    spec = meta["flow"]
    try:
        dtype = getattr(torch, spec["dtype"])
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype {spec['dtype']!r:.40}")
        flow = build(
            spec["model"],
            spec["event_shape"],
            spec["context_shape"],
            x_map=bijectors.from_description(spec["x_map"]),
            context_map=bijectors.from_description(spec["context_map"]),
            generator=torch.Generator().manual_seed(0),  # the weights are replaced; the process-wide state is not
            **spec["config"],
        )
    except UnknownName as error:
        raise UnknownName(
            f"{path}: {error}; if it is of your own, import the module that registers it first, or install its package"
        ) from None
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise CheckpointError(f"{path}: what it says of its flow makes none ({why})") from None
    flow.to(dtype)
    try:
        flow.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its weights do not fit the '{spec['model']}' of this version "
            f"(it was written with {meta.get('versions')}): {str(error).splitlines()[-1].strip()}"
        ) from None
    return flow.to(device).eval()


def read_meta(path: str | Path) -> dict[str, Any]:
    """The metadata of a checkpoint, its checksum verified."""
    return load_tensors(Path(path))[1]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("flowzoo", "torch", "zuko", "nflows", "normflows", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"\x1f{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
