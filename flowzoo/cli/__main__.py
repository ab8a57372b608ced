"""``python -m flowzoo.cli``."""

from flowzoo.cli import main

if __name__ == "__main__":
    main()
