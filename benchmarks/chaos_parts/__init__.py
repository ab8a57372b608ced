"""The parts of ``benchmarks/chaos.py``, one file each; a part has ``run(short, seed) -> list[Row]``."""
