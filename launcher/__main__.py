"""``python -m launcher`` and the console script ``launcher``."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Run the command line and return its exit status."""
    # The current folder last: a yaml.py of the user's must not shadow a module of ours, yet a
    # class of theirs, named by a _target_, is found.
    sys.path[:] = [*(each for each in sys.path[1:] if each), ""]
    # Short-lived, and all that it makes it keeps: looking for garbage is time lost.
    gc.disable()
    from launcher.cli import run  # noqa: PLC0415 - once the path is right

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
