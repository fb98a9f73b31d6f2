"""A declarative, config-driven launcher for PyTorch training jobs.

``report`` is for the training script, ``submit`` and ``Run`` for a program or a notebook. All is
imported on first use: a script that only reports pays for nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.report import report

if TYPE_CHECKING:
    from launcher.api import rerun, runs, submit, submit_sweep
    from launcher.errors import LaunchError
    from launcher.run import Run

__all__ = ["LaunchError", "Run", "report", "rerun", "runs", "submit", "submit_sweep"]

_WHERE = {
    "LaunchError": "launcher.errors",
    "Run": "launcher.run",
    "rerun": "launcher.api",
    "runs": "launcher.api",
    "submit": "launcher.api",
    "submit_sweep": "launcher.api",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'launcher' has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - see above

    return getattr(importlib.import_module(_WHERE[name]), name)
