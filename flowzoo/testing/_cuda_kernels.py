"""Which operations torch has a CUDA kernel for, by its own table of them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml


@functools.cache
def has_cuda_kernel(func: Any) -> bool:
    """Whether torch has this operation on CUDA; it says so of those that it declares itself, and of others yes."""
    return func._schema.name.removeprefix("aten::") + "." + func._overloadname not in _on_cpu_only()


@functools.cache
def _on_cpu_only() -> frozenset[str]:
    """Operations, as ``name.overload``, that torch's table of its own operations has a CPU kernel for and no other."""
    import torchgen

    table = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    found = set()
    for entry in yaml.load(table.read_text(), yaml.CSafeLoader):
        keys = {key.strip() for keys in entry.get("dispatch", {}) for key in keys.split(",")}
        if "CPU" in keys and not keys & {"CUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd"}:
            name, _, overload = entry["func"].partition("(")[0].partition(".")
            found.add(f"{name}.{overload or 'default'}")
    return frozenset(found)
