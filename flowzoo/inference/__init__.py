"""From a density of the data to what it says of its context: priors, posteriors, p(class | x)."""

from __future__ import annotations

from flowzoo.inference._checks import check_covers, check_truncates
from flowzoo.inference._inferred import Inferred
from flowzoo.inference._scipy_priors import Product, Samples
from flowzoo.inference._scoring import NoPosterior
from flowzoo.inference._sides import sides
from flowzoo.inference.classes import class_log_posterior
from flowzoo.inference.posterior import Posterior
from flowzoo.inference.prior_text import from_description
from flowzoo.inference.priors import Box, Gaussian, LogNormal, Prior
from flowzoo.inference.summary import summarise

__all__ = [
    "Box",
    "Gaussian",
    "Inferred",
    "LogNormal",
    "NoPosterior",
    "Posterior",
    "Prior",
    "Product",
    "Samples",
    "check_covers",
    "check_truncates",
    "class_log_posterior",
    "from_description",
    "sides",
    "summarise",
]
