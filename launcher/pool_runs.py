"""The program that a plan starts: ``python -I -S pool_runs.py GROUP_FOLDER SUPERVISOR...``."""

import os
import sys

# With -I and -S nothing but the standard library is on the path.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from launcher.pool.pool import main

if __name__ == "__main__":
    sys.exit(main())
