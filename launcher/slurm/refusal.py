"""What sbatch's errors mean: which key of ours caused one, what to do next, whether it passes.

Why by message and not by number: sbatch ends with 1 for nearly all of them. Source: slurm_errno.c;
the words have hardly changed from version to version.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.errors import SubmitError
from launcher.slurm.ask import SILENT

if TYPE_CHECKING:
    from collections.abc import Sequence

# Slurm answered, and what it said may be otherwise a little later.
_BUSY = re.compile(
    r"temporarily unable|Unable to create job record, try again|MaxSubmitJob|MaxSubmitPU|"
    r"GrpSubmitJob|MaxJobCount|Error generating job credential|I/O error writing script|"
    r"Unable to connect to database",
    re.IGNORECASE,
)
# Slurm holds as many jobs, of the user or of all, as it may.
_FULL = re.compile(
    r"MaxSubmitJob|MaxSubmitPU|GrpSubmitJob|MaxJobCount|temporarily unable to accept job",
    re.IGNORECASE,
)
# sbatch's option -> the key that gives it. Any other is in compute.extra.
_KEYS = {
    "nodes": "nodes",
    "ntasks-per-node": "procs_per_node",
    "gpus-per-task": "environment.gpus_per_proc",
    "gpus-per-node": "environment.gpus_per_proc",
    "cpus-per-task": "compute.cpus_per_proc",
    "time": "compute.time",
    "job-name": "name",
    **{
        name: f"compute.{name.replace('-', '_')}"
        for name in (
            *("partition", "account", "qos", "mem", "constraint", "gres", "reservation"),
            *("exclude", "nodelist", "exclusive", "comment", "mail-type", "mail-user"),
        )
    },
}
_SIZES = ("nodes", "ntasks-per-node", "cpus-per-task", "mem", "gres", "gpus-per-task")
_ACCOUNTS = "`sacctmgr show associations user=$USER format=account,partition,qos` lists yours."
# (sbatch's words, the options that they may be about, the next step); the first match counts
_CAUSES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (r"configuration source", (), "Log in where Slurm's commands know their cluster."),
    (
        r"violates accounting/QOS policy",
        ("account", "qos", "time", "nodes"),
        "A limit of the account or QOS: `sacctmgr show qos` and `sshare --long` show them.",
    ),
    (r"Invalid account", ("account",), _ACCOUNTS),
    (r"Invalid qos|QOS usage threshold", ("qos",), _ACCOUNTS),
    (r"feature", ("constraint",), '`sinfo --format="%R %f"` lists those of each partition.'),
    (r"reservation", ("reservation",), "`scontrol show reservation` lists them."),
    (
        r"Invalid node name|invalid number of nodes|Requested nodes not in|Required node not",
        ("nodelist", "exclude", "nodes"),
        "`sinfo --Node` lists the nodes.",
    ),
    (
        r"partition",
        ("partition",),
        "`sinfo --summarize` lists those that you may use.",
    ),
    (r"time limit|--time\b", ("time",), '`sinfo --format="%R %l"` lists the limits.'),
    (r"memory|--mem\b", ("mem",), '`sinfo --format="%R %m"` lists what nodes have, in MiB.'),
    (
        r"generic resource|\bgres\b|\btres\b",
        ("gres", "gpus-per-task"),
        '`sinfo --format="%R %G"` lists what nodes have.',
    ),
    (
        r"More processors|more tasks|(CPU|Task|Node) count|--cpus-per-task|node configuration is",
        _SIZES,
        '`sinfo --format="%R %D %c %m %G"` lists nodes, and their cores, memory and GPUs.',
    ),
    (r"licen[sc]e", ("licenses",), "`scontrol show licenses` lists them."),
)
_OPTION = re.compile(r"(?:^|[\s'])--([a-z][a-z-]+)")


def passes(stderr: str) -> bool:
    """Return whether the same sbatch may succeed a little later."""
    return bool(SILENT.search(stderr) or _BUSY.search(stderr))


def full(stderr: str) -> bool:
    """Return whether sbatch would have taken fewer jobs."""
    return bool(_FULL.search(stderr))


def refusal(argv: Sequence[str], status: int | None, stderr: str, script: str = "") -> SubmitError:
    """Return the error of an sbatch that failed: our key and its value, sbatch's words, a hint.

    ``script``: the text of the batch file, where the values stand.
    """
    said = _said(stderr) or f"exit status {status}"
    if passes(stderr):
        hint = "It may pass: try again later."
        about = ""
    else:
        options, hint = _cause(stderr)
        about = _given(script, options)
    return SubmitError(
        f"{about}sbatch: {said}",
        hint=hint,
        argv=argv,
        exit_status=status,
        stderr=stderr,
        transient=passes(stderr),
    )


def _said(stderr: str) -> str:
    """Return sbatch's own words in one line, each once, and the last is the verdict."""
    lines = [line for line in stderr.strip().splitlines() if not line.startswith("Try ")]
    clean = [
        re.sub(r"^sbatch: |error: |fatal: |Batch job submission failed: ", "", line).strip()
        for line in lines
    ]
    return "; ".join(dict.fromkeys(re.sub(r"^(error|fatal): ", "", each) for each in clean))


def _cause(stderr: str) -> tuple[tuple[str, ...], str]:
    """Return the options that an error that stays is about, and the next step."""
    for words, options, hint in _CAUSES:
        if re.search(words, stderr, re.IGNORECASE):
            return options, hint
    named = _OPTION.search(stderr.replace("sbatch --help", ""))
    options = (named[1],) if named else ()
    return options, "`launcher plan` shows the batch file; sbatch(1) has its options."


def _given(script: str, options: Sequence[str]) -> str:
    """Return ``"compute.partition=x: "``: the keys of those options that the batch file gives."""
    values = {
        name: value.replace("'\"'\"'", "'").strip("'") if value else "true"
        for name, value in re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", script, re.MULTILINE)
    }
    keys = {each: _KEYS.get(each, f"compute.extra.{each}") for each in options}
    given = [f"{keys[each]}={values[each]}" for each in options if each in values]
    return f"{' '.join(given or keys.values())}: " if options else ""
