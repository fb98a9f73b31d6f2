"""``python -m launcher.hydra_app.call package.module:main overrides...``: for console scripts."""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Call the function that the first argument names, as the console script would."""
    name = sys.argv.pop(1)
    module, _, function = name.partition(":")
    getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    main()
