"""Conformance: what every flow, metric and dataset of the zoo must satisfy, and a third party's too.

::

    from flowzoo.testing import check_dataset, check_flow, check_metric

    def test_my_flow():
        check_flow("my-flow")

    def test_my_metric():
        check_metric("my_metric", max_points=100)

    def test_my_dataset():
        check_dataset("my_dataset", path="tests/small.npz")

Each runs all checks of its kind (``CHECKS`` of flows, ``METRIC_CHECKS``, ``DATASET_CHECKS``: a function of a case by
name), raises ``AssertionError`` with the figure that failed, and returns the checks that say nothing, with the reasons.

Whether flows and metrics work on a GPU is tried on one that is pretended, which tests of one's own may use too::

    from flowzoo.testing import pretended_gpu

    with pretended_gpu() as gpu:
        drawn = flow.to(gpu.device).sample(context.to(gpu.device))

What cannot pass a check says so in its own file, by a class attribute ``exempt`` of its config: a mapping of the
check's name to the reason. What is exempt is not run. A class attribute ``conformance`` says on what the checks are run
by default: ``{"options": {...}}``, small ones; of a flow shapes too (see ``Case``).
"""

from __future__ import annotations

from flowzoo.host_sync import NoHostSync
from flowzoo.testing._dataset_case import DatasetCase, dataset_case
from flowzoo.testing._evaluations import bare_evaluation
from flowzoo.testing._flow_case import Case, case_of, inputs
from flowzoo.testing._metric_case import MetricCase, metric_case
from flowzoo.testing._pretended_gpu import PretendedGPU, pretended_gpu
from flowzoo.testing._space import require_default_in_space
from flowzoo.testing._suite import NotApplicable
from flowzoo.testing.datasets import DATASET_CHECKS, check_dataset
from flowzoo.testing.flows import CHECKS, check_flow, exempt
from flowzoo.testing.metrics import METRIC_CHECKS, check_metric

__all__ = [
    "CHECKS",
    "DATASET_CHECKS",
    "METRIC_CHECKS",
    "Case",
    "DatasetCase",
    "MetricCase",
    "NoHostSync",
    "NotApplicable",
    "PretendedGPU",
    "bare_evaluation",
    "case_of",
    "check_dataset",
    "check_flow",
    "check_metric",
    "dataset_case",
    "exempt",
    "inputs",
    "metric_case",
    "pretended_gpu",
    "require_default_in_space",
]
