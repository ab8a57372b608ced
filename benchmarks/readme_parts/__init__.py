"""Parts of ``make_readme.py``."""
