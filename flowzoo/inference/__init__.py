"""From a density of the data to what it says of its context."""

from __future__ import annotations

from flowzoo.inference.classes import class_log_posterior

__all__ = ["class_log_posterior"]
