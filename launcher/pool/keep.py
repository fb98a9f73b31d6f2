"""Holds what a run has leased on one of its machines, until it has ended.

    keep.py FOLDER GRACE_S SILENCE_S LINE START

Standard library only. ``LINE``: an open connection to the run's supervisor, which ends with it.
What is leased we have inherited, and have until we end. Once the supervisor is gone, whatever ended
it, what is left of the run here is ended, as a supervisor does with what it sees. Ranks are left to
their guards for a while, which see that, too: a worker may be needed to save a rank's work.
``START``: the name of the run's start. Where the first was lost, there may be another by the time
that we know of it, whose ranks are not ours to end.

Why two processes: one that is killed, for want of memory say, must not free what ranks are still
using.
"""

import contextlib
import os
import sys
import time

# With -I and -S nothing but the standard library is on the path.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from launcher.processes import end, marked  # now it can be found

_GUARDS_S = 15.0  # for guards to end their ranks, which have 10 s, and mpirun's daemon
_POLL_S = 0.1


def main(folder: str, grace_s: float, silence_s: float, line: int, start: str) -> None:
    """Return when the run has ended, and nothing of it lives here.

    ``silence_s``: after which a guard knows that the supervisor is gone.
    """
    with contextlib.suppress(OSError):
        while os.read(line, 64):
            pass
    run_id, guards = os.path.basename(folder), _guards(folder)
    end_at = time.monotonic() + silence_s + _GUARDS_S
    while guards.intersection(marked(run_id, start)) and time.monotonic() < end_at:
        time.sleep(_POLL_S)
    while end(run_id, grace_s, start):
        grace_s = 0.0


def _guards(folder: str) -> set[int]:
    """Return the processes that guard, or have guarded, a rank of the run on this machine."""
    import json  # noqa: PLC0415 - most keepers have nothing to do, and each run starts one

    found: set[int] = set()
    odd = (OSError, ValueError, LookupError, TypeError)  # what a full disk has made of one
    with contextlib.suppress(OSError):
        for each in os.scandir(os.path.join(folder, "ranks")):
            with contextlib.suppress(*odd), open(each.path, "rb") as file:
                rank = json.load(file)
                if rank["host"] == os.uname().nodename:
                    found.add(int(rank["guard"]))
    return found


if __name__ == "__main__":
    if os.fork() == 0 or os.wait()[1]:  # the first, or it was killed
        main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
