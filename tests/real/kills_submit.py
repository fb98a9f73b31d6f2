"""Kill the submit of a run at each moment that matters to hosts, and type it again.

    python kills_submit.py COUNT OVERRIDES...      in a project's folder

A moment is a request to a host: before it is sent, in the middle of it, or when it is sent and not
answered; or an act here, as kills.py counts them. Each request is tried at one of the three, and
COUNT of the acts; 0: all there are. Prints, a line a trial: the moment, how it was killed, how its
second submit ended, and what that said. Trial N is ``script_params.trial=N``.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from kills import submitted  # type: ignore[import-not-found]

from launcher.ssh.channel import Channel

WHEN = ("before", "middle", "after")
SEEN = Path("moments")
CHANGES = Path("changes.txt")  # of the code, so that some of it travels each time
send = Channel._send
moment = ""  # at which to be killed; "": note all of them
times: collections.Counter[str] = collections.Counter()


class Half:
    """The way to a host, on which half of what is written goes through, and we die."""

    def __init__(self, to: Any) -> None:
        self.to = to

    def write(self, data: bytes) -> None:
        self.to.write(data[: len(data) // 2])
        self.to.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def watched(channel: Channel, request: str, body: bytes, head: dict[str, Any]) -> None:
    """Send a request, and die if this is the moment for it."""
    name = f"{channel.name} {request}"
    times[name] += 1
    name += f" {times[name]}"
    if not moment:
        with SEEN.open("a") as file:
            print(name, file=file)
    if moment == f"{name} before":
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == f"{name} middle":
        channel._to = Half(channel._to)  # type: ignore[assignment]
    send(channel, request, body, head)
    if moment == f"{name} after":
        os.kill(os.getpid(), signal.SIGKILL)


def seen() -> list[str]:
    """Return the requests that there were; how often a submit looks for its start hangs on time."""
    names = SEEN.read_text().splitlines()
    return [each for each in names if " pull " not in each or each.endswith(" 1")]


def some(names: list[str], acts: int, count: int) -> list[str]:
    """Return so many moments: each request at least once, then acts here; all if ``count`` is 0."""
    if not count:
        return [f"{name} {when}" for name in names for when in WHEN] + [*map(str, range(acts))]
    requests = [f"{name} {WHEN[number % 3]}" for number, name in enumerate(names)]
    return requests + [str(acts * number // count) for number in range(count)]


def main() -> int:
    global moment  # noqa: PLW0603 - what is forked has it from us
    count, line = int(sys.argv[1]), sys.argv[2:]
    Channel._send = watched  # type: ignore[method-assign]
    for number in (-2, -1):  # the first one brings more
        SEEN.unlink(missing_ok=True)
        CHANGES.write_text(str(number))
        status, acts = submitted([*line, "script_params.trial=-1"])
        assert status == 0, Path("said").read_text()
    for number, each in enumerate(some(seen(), acts, count)):
        own = [*line, f"script_params.trial={number}"]
        CHANGES.write_text(each)
        moment = each
        first, _ = submitted(own, kill_at=int(each) if each.isdigit() else None)
        moment = "never"
        second, _ = submitted(own)
        told = {"moment": each, "killed": first, "status": second}
        print(json.dumps({**told, "said": Path("said").read_text()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
