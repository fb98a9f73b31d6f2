"""Holds what a run has leased on its second and further machines: ``python keep.py RUN_ID LINE``.

Standard library only. ``LINE``: an open connection to the run's supervisor, which ends with it.
What is leased we have inherited, and have until we end.

Why two processes that do the same: one that is killed, for want of memory say, must not free what
ranks are still using.
"""

import contextlib
import os
import socket
import sys
import time

# With -I and -S nothing but the standard library is on the path.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from launcher.processes import marked  # now it can be found

_POLL_S = 0.1
_LOOKS = 3  # that find nothing: what was being started when the supervisor ended takes a moment


def main(run_id: str, line: int) -> None:
    """Return when the run has ended, and nothing of it lives here."""
    with socket.socket(fileno=line) as supervisor, contextlib.suppress(OSError):
        while supervisor.recv(64):
            pass
    quiet = 0
    while quiet < _LOOKS:
        quiet = 0 if marked(run_id) else quiet + 1
        time.sleep(_POLL_S)


if __name__ == "__main__":
    os.fork()
    main(sys.argv[1], int(sys.argv[2]))
