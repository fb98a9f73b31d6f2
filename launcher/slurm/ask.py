"""A question to Slurm: one of its programs, run without the user's own defaults for it.

Why without: SQUEUE_FORMAT, SQUEUE_PARTITION, SACCT_FORMAT and their kin are meant for a person at a
prompt, and would change what we read. Times come as seconds since the epoch: no zone, no locale.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from launcher import process
from launcher.errors import SubmitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.process import Completed

TIMEOUT_S = 60.0  # its programs give up by themselves long before, unless a file system hangs
_DEFAULTS = re.compile(r"(SQUEUE|SACCT|SINFO|SCONTROL|SACCTMGR)_|SLURM_(CLUSTERS|BITSTR_LEN)$")
# Source: the messages of slurm_errno.c, and what the programs print when there is no slurm.conf
SILENT = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Connection refused|No route to host|"
    r"Connection (timed out|reset)|controller not responding|(in )?standby (mode|controller)|"
    r"controller (is )?in standby|Zero Bytes were|Communication (connection|shutdown) failure|"
    r"Unexpected missing socket|Resource temporarily unavailable|Slurmctld running in SINGLE",
    re.IGNORECASE,
)
_NO_CLUSTER = re.compile(
    r"Could not establish a configuration source|failed to fetch (remote )?config|"
    r"resolve_ctls_from_dns|Unable to (process|open) (the )?config",
    re.IGNORECASE,
)


def ask(argv: Sequence[str], timeout_s: float = TIMEOUT_S) -> Completed:
    """Return what a program of Slurm's printed, and its exit status, which is not checked."""
    ours = [name for name in os.environ if _DEFAULTS.match(name)]
    without = ("env", *(f"--unset={name}" for name in ours)) if ours else ()
    env = {"LC_ALL": "C.UTF-8", "SLURM_TIME_FORMAT": "%s"}
    return process.run((*without, *argv), env=env, timeout_s=timeout_s)


def there(done: Completed) -> bool:
    """Return whether the program was there, and a cluster that it belongs to."""
    return done.status not in (126, 127) and not _NO_CLUSTER.search(done.stderr)


def silent(done: Completed) -> bool:
    """Return whether Slurm did not answer, and so said nothing about what was asked."""
    return done.status == 124 or bool(done.status and SILENT.search(done.stderr))


def no_answer(done: Completed) -> SubmitError:
    """Return the error that tells of a question that Slurm did not answer."""
    said = first_line(done.stderr) or f"exit status {done.status}"
    hint = "`scontrol ping` tells whether its controller is up. Try again later."
    if not there(done):
        hint = "Log in where Slurm's commands are on PATH and know their cluster."
    return SubmitError(
        f"Slurm's controller (slurmctld) does not answer: {said}",
        hint=hint,
        argv=done.argv,
        exit_status=done.status,
        stderr=done.stderr,
        transient=True,
    )


def first_line(text: str) -> str:
    """Return the first line of ``text``, without the name of the program that said it."""
    line = text.strip().partition("\n")[0]
    return re.sub(r"^\w+(?: error)?: (?:error: |fatal: )?", "", line)
