"""What the interpreter that runs this file says about itself.

Also run as a script by interpreters that are not ours: standard library only, from Python 3.8, and
nothing of the launcher.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig


def describe() -> dict[str, object]:
    """Return the interpreter's path, version, implementation, base, platform and site folders."""
    return {
        "path": sys.executable,
        "version": ".".join(map(str, sys.version_info[:3])),
        "implementation": sys.implementation.name,
        "base": sys.base_prefix,
        "platform": sysconfig.get_platform(),
        "site": site(),
    }


def site() -> list[str]:
    """Return the folders where distributions are installed, in the order of imports."""
    # Only these: the folder of the script that runs is on sys.path too, and changes all the time.
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    added = {os.path.abspath(each) for each in given if each}
    named = ("/site-packages", "/dist-packages")
    return [each for each in dict.fromkeys(sys.path) if each.endswith(named) or each in added]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe()))
