"""``report``: the metrics of a run, from inside the script. Standard library only.

Why one file that needs nothing else: it is copied into the run's folder, so that
``from launcher import report`` works in an environment where the launcher is not installed.
"""

from __future__ import annotations

import json
import os
import time

__all__ = ["report"]


def report(*, step: int | None = None, **metrics: object) -> None:
    """Append ``metrics`` to the run's metrics file, from rank 0 only.

    A no-op outside a run and on other ranks. A value may be a number, a text, or anything that
    ``float()`` takes, such as a tensor of one element; raise TypeError or ValueError otherwise.
    """
    folder = os.environ.get("LAUNCHER_RUN_DIR")
    if not folder or os.environ.get("RANK", "0") != "0":
        return
    record: dict[str, object] = {"time": round(time.time(), 3)}
    if step is not None:
        record["step"] = int(step)
    for name, value in metrics.items():
        plain = isinstance(value, (bool, int, float, str))
        record[name] = value if plain else float(value)  # type: ignore[arg-type]
    line = (json.dumps(record) + "\n").encode()
    # One write to a file opened for appending: lines of several processes never mix.
    file = os.open(
        os.path.join(folder, "metrics.jsonl"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644
    )
    try:
        os.write(file, line)
    finally:
        os.close(file)
