"""Parts of ``scaling.py``."""
