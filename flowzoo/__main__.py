"""``python -m flowzoo``, and so ``torchrun -m flowzoo``."""

from flowzoo.cli import main

if __name__ == "__main__":
    main()
