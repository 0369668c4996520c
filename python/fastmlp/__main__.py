"""``python -m fastmlp`` prints the configuration and runs the self-check."""

import sys

from .runtime import show_config
from .runtime._selfcheck import run


def main() -> int:
    """Print the configuration, run the self-check and return the exit code."""
    show_config()
    print()
    return 0 if run() else 1


if __name__ == "__main__":
    sys.exit(main())
