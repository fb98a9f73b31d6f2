"""The name of the cluster that this machine submits to: homes may be shared with another one."""

from __future__ import annotations

import contextlib
import functools
import os
import re

from launcher.slurm.ask import ask

# Where its configuration lies, or is put by slurmd where there is none. Source: slurm.conf(5)
_FILES = ("/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf")
_NAME = re.compile(r"^\s*ClusterName\s*=\s*(\S+)", re.IGNORECASE | re.MULTILINE)


@functools.cache
def cluster_name() -> str:
    """Return the cluster's name; "" when nothing tells it."""
    for path in filter(None, (os.environ.get("SLURM_CONF"), *_FILES)):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            if found := _NAME.search(file.read()):
                return found[1]
    found = _NAME.search(ask(("scontrol", "show", "config")).stdout)
    return found[1] if found else ""
