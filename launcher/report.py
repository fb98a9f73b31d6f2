"""``report``: the metrics of a run, from inside the script. Standard library only.

Why one file that needs nothing else: it is copied into the run's folder, so that
``from launcher import report`` works in an environment where the launcher is not installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

__all__ = ["report"]


def report(*, step: int | None = None, **metrics: object) -> None:
    """Append ``metrics`` to the run's metrics file, from rank 0 only.

    A no-op outside a run and on other ranks. A value may be a number, a text, None, or anything
    that ``float()`` takes, such as a tensor of one element; TypeError or ValueError otherwise.
    """
    folder = os.environ.get("LAUNCHER_RUN_DIR")
    if not folder or os.environ.get("RANK", "0") != "0":
        return
    record: dict[str, object] = {"time": round(time.time(), 3)}
    if step is not None:
        record["step"] = int(step)
    for name, value in metrics.items():
        if value is None or isinstance(value, (bool, int, float, str)):
            record[name] = value
        else:  # a tensor that still has its graph warns when it is read
            record[name] = float(getattr(value, "detach", lambda value=value: value)())
    line = (json.dumps(record) + "\n").encode()
    # A full disk costs a line, never the training.
    with contextlib.suppress(OSError):
        _append(os.path.join(folder, "metrics.jsonl"), line)


def _append(path: str, line: bytes) -> None:
    # One write to a file opened for appending: lines of several processes never mix.
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)
