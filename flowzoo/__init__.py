"""flowzoo: which conditional normalizing flow to trust on your own data.

The public names are loaded on first use (PEP 562), so that ``import flowzoo`` and ``flowzoo --help`` cost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> where it lives
_PUBLIC = {
    "ConditionalFlow": "flowzoo.flow",
    "DATASETS": "flowzoo.registry",
    "Data": "flowzoo.data",
    "FitConfig": "flowzoo.train",
    "METRICS": "flowzoo.registry",
    "MODELS": "flowzoo.registry",
    "Splits": "flowzoo.data",
    "bench": "flowzoo.harness",
    "build": "flowzoo.models",
    "fit": "flowzoo.train",
    "load": "flowzoo.checkpoint",
    "save": "flowzoo.checkpoint",
}

__all__ = [*sorted(_PUBLIC), "__version__"]

if TYPE_CHECKING:
    from flowzoo.checkpoint import load as load
    from flowzoo.checkpoint import save as save
    from flowzoo.data import Data as Data
    from flowzoo.data import Splits as Splits
    from flowzoo.flow import ConditionalFlow as ConditionalFlow
    from flowzoo.harness import bench as bench
    from flowzoo.models import build as build
    from flowzoo.registry import DATASETS as DATASETS
    from flowzoo.registry import METRICS as METRICS
    from flowzoo.registry import MODELS as MODELS
    from flowzoo.train import FitConfig as FitConfig
    from flowzoo.train import fit as fit


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'flowzoo' has no attribute '{name}'; it has {', '.join(sorted(_PUBLIC))}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
