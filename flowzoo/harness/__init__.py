"""The harness: settings -> plan -> run -> compare. ``bench`` is the main job."""

from flowzoo.harness.compare import BenchResult, bench, execute
from flowzoo.harness.folder import RunDirectoryError
from flowzoo.harness.plan import BenchConfig, make_plan, open_source, open_sources

__all__ = [
    "BenchConfig",
    "BenchResult",
    "RunDirectoryError",
    "bench",
    "execute",
    "make_plan",
    "open_source",
    "open_sources",
]
