"""Holds what a run has leased on one of its machines: ``python keep.py RUN_ID GRACE_S LINE``.

Standard library only. ``LINE``: an open connection to the run's supervisor, which ends with it.
What is leased we have inherited, and have until we end. Once the supervisor is gone, whatever ended
it, what is left of the run here is ended, as a supervisor does with what it sees.

Why two processes that do the same: one that is killed, for want of memory say, must not free what
ranks are still using.
"""

import contextlib
import os
import socket
import sys

# With -I and -S nothing but the standard library is on the path.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from launcher.processes import end  # now it can be found


def main(run_id: str, grace_s: float, line: int) -> None:
    """Return when the run has ended, and nothing of it lives here."""
    with socket.socket(fileno=line) as supervisor, contextlib.suppress(OSError):
        while supervisor.recv(64):
            pass
    while end(run_id, grace_s):
        grace_s = 0.0


if __name__ == "__main__":
    os.fork()
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
