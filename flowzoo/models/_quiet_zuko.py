"""Imports zuko without its side effect; imported before any other part of zuko.

zuko switches off the argument checks of torch's distributions in the whole process. They are not ours to switch: what
was there just before is put back. If someone else imported zuko already, nothing is touched.
"""

import sys

from torch.distributions import Distribution

_first = "zuko" not in sys.modules
_checks = Distribution._validate_args

import zuko  # noqa: E402, F401

if _first:
    Distribution.set_default_validate_args(_checks)
