"""The program that a plan starts: ``python -I -S supervise.py RUN_FOLDER``."""

import gc
import os
import sys

gc.disable()  # while modules are imported there is nothing to collect

# With -I and -S nothing but the standard library is on the path.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from launcher.supervisor import main  # noqa: E402 - now it can be found

if __name__ == "__main__":
    gc.enable()
    sys.exit(main())
