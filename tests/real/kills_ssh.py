"""Kill a sweep's submit to ssh hosts at many points, and type it again.

    python kills_ssh.py COUNT OVERRIDES...      in a project's folder

Prints, a line a trial: how it was killed, how its second submit ended, and its runs. Trial N is
``script_params.trial=N`` in a folder of its own. As kills.py does for Slurm.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

from kills import submitted  # type: ignore[import-not-found]


def main() -> int:
    count, line = int(sys.argv[1]), sys.argv[2:]
    chance = random.Random(5)
    begun = time.monotonic()
    status, acts = submitted([*line, "script_params.trial=-1", "runs_dir=whole"])
    took = time.monotonic() - begun
    assert status == 0, Path("said").read_text()
    for number in range(count):
        own = [*line, f"script_params.trial={number}", f"runs_dir=runs-{number}"]
        if number % 2:
            how = {"after_s": chance.uniform(0.3 * took, took)}
        else:
            how = {"kill_at": chance.randrange(acts // 3, acts)}
        first, _ = submitted(own, **how)  # type: ignore[arg-type]
        second, _ = submitted(own)
        runs = [name for name in os.listdir(f"runs-{number}") if name[0].isdigit()]
        told = {"how": how, "killed": first, "status": second, "runs": len(runs)}
        print(json.dumps({**told, "said": Path("said").read_text()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
