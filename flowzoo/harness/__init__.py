"""The harness: settings -> plan -> run -> compare. ``bench`` is the main job."""

from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.compare import BenchResult, bench, execute
from flowzoo.harness.folder import RunDirectoryError
from flowzoo.harness.plan import make_plan
from flowzoo.harness.source import open_source, open_sources

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
