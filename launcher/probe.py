"""A read-only look at this machine -> Facts. The only part of planning that may look."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import git, process
from launcher.environment.locate import locate
from launcher.errors import ConfigError, nearest
from launcher.job import Facts
from launcher.processes import this_process

if TYPE_CHECKING:
    from launcher.cluster import Cluster
    from launcher.git import Place
    from launcher.job import JobSpec
    from launcher.snapshot import Snapshot


_NO_PROJECTS = ("/", "/tmp", "/home", os.path.expanduser("~"))  # noqa: S108


def source_of(job: JobSpec) -> Place:
    """Return where the source directory lies; ConfigError when it, or the script, is not there."""
    _check_source(job)
    return git.find(job.source_directory)


def probe(job: JobSpec, source: Place | Snapshot, *, arrays: bool = False) -> Facts:
    """Return what this machine has that ``job`` needs to be planned. Nothing is written.

    Of compute=ssh, what its hosts have: on these the launcher's own code is written. ``arrays``: of
    a sweep, how large a job array may be too, and all hosts. ConfigError when something that the
    job names is not there.
    """
    _check_data(job)
    if job.compute.kind == "ssh":
        from launcher.ssh import look  # noqa: PLC0415 - other computes need it not

        return look.facts(job, source, pool=arrays)
    return Facts(
        user=process.user(),
        uid=os.getuid(),
        host=this_process()["host"],
        cpus=len(os.sched_getaffinity(0)),
        gpus=len(list(Path("/dev").glob("nvidia[0-9]*"))),
        python=sys.executable,
        package_root=str(Path(__file__).parent.parent),
        git_dir=source.git_dir,
        source_prefix=source.prefix,
        prefix=locate(job.environment, horovod=job.dist.horovod, mpi=job.dist.kind == "mpi"),
        slurm=_cluster(job, arrays=arrays) if job.compute.kind == "slurm" else None,
    )


def _check_source(job: JobSpec) -> None:
    source = Path(job.source_directory)
    if not source.is_dir():
        raise ConfigError(
            f"source_directory={source}: no such folder",
            hint=f"It is read from the current folder, {Path.cwd()}.",
        )
    if str(source) in _NO_PROJECTS:
        raise ConfigError(
            f"source_directory={source}: a run takes a snapshot of all that is there, which is "
            "more than a project",
            hint="Launch from the project's own folder, or name it: source_directory=...",
        )
    if job.entry[0] == "-m" or (source / job.entry[0]).is_file():
        return
    path = source / job.entry[0]
    beside = sorted(each.name for each in path.parent.glob("*.py")) if path.parent.is_dir() else []
    raise ConfigError(
        f"entry_script={job.entry[0]}: no such file in {source}",
        hint=nearest(path.name, beside) + f"There: {', '.join(beside[:10]) or 'no Python file'}.",
    )


def _check_data(job: JobSpec) -> None:
    for name, path in job.data.items():
        if job.compute.kind != "ssh" and not os.path.exists(path):
            raise ConfigError(
                f"data.{name}.path={path}: there is no such file or folder",
                hint="It is used where it lies; a relative path is read from the current folder.",
            )


def _cluster(job: JobSpec, *, arrays: bool) -> Cluster | None:
    from launcher.slurm import batch, cluster  # noqa: PLC0415 - other computes need them not

    # What the plan needs next takes as long to import as Slurm takes to answer.
    threading.Thread(target=batch.load, daemon=True).start()
    return cluster.probe(job, arrays=arrays)
