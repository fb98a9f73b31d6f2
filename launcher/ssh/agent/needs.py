"""What a run needs of a host, as its folder there tells.

Standard library only, and sent to hosts as it is. Each thing is named by its sign, which is a file:
its time is that of the last use, and its lock says that the thing is in use now.
"""

from __future__ import annotations

import os
import re

from launcher.ssh.agent.disk import text_of

ENVIRONMENTS, CODE, DATA = "cache/envs", "trees", "data/trees"
MARKER = "environment.json"
_KEY = re.compile(rf"/{ENVIRONMENTS}/([^/\s\"']+)")


def needs(run: str) -> set[str]:
    """Return the signs of what a run's ranks are made of, below the launcher's folder."""
    found = {f"{CODE}/{name}" for name in text_of(os.path.join(run, "code.tree")).split()}
    found |= {f"{DATA}/{digest}" for digest in text_of(os.path.join(run, "data.trees")).split()}
    keys = _KEY.findall(text_of(os.path.join(run, "launch.sh")))
    return found | {f"{ENVIRONMENTS}/{key}/{MARKER}" for key in keys}
