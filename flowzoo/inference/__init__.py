"""From a density of the data to what it says of its context: priors, posteriors, p(class | x)."""

from __future__ import annotations

from flowzoo.inference.classes import class_log_posterior
from flowzoo.inference.prior_text import from_description
from flowzoo.inference.priors import Box, Gaussian, LogNormal, Prior, Product, Samples

__all__ = [
    "Box",
    "Gaussian",
    "LogNormal",
    "Prior",
    "Product",
    "Samples",
    "class_log_posterior",
    "from_description",
]
