"""plan(job, facts, run_id) -> LaunchPlan. Pure: no clock, no file, no program.

Why launch.sh knows neither the run's id nor its commit: it finds both from where it lies, so that
what ``launcher plan`` prints is to the byte what a submit writes.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.errors import PlanError
from launcher.job import LINK, WRITTEN, LaunchPlan, PlannedFile
from launcher.shell import ShellExpr, shell_export, shell_line, shell_word

if TYPE_CHECKING:
    from launcher.job import Facts, JobSpec
    from launcher.shell import Word

_HERE = Path(__file__).parent
_OWN = {
    "LAUNCHER_RUN_ID": ShellExpr('"${LAUNCHER_RUN_DIR##*/}"'),
    "LAUNCHER_OUTPUT_DIR": ShellExpr('"$LAUNCHER_RUN_DIR/outputs"'),
    "LAUNCHER_CHECKPOINT_DIR": ShellExpr('"$LAUNCHER_RUN_DIR/checkpoints"'),
    # Set by the supervisor; by hand there is none.
    "LAUNCHER_RESTART_COUNT": ShellExpr('"${LAUNCHER_RESTART_COUNT:-0}"'),
    "LAUNCHER_CONTROL": ShellExpr('"${LAUNCHER_CONTROL:-}"'),
    "LAUNCHER_CONTROL_HOST": ShellExpr('"${LAUNCHER_CONTROL_HOST:-}"'),
}
_SUPPORT = {"bootstrap.py": "bootstrap.py", "guard.py": "guard.py", "stage.py": "stage.py"}
_BY_CONTENT = {"objects.py": "ssh/agent/objects.py"}  # where each host makes the code by itself
# Where a Hydra application's own configuration says hydra/launcher=training, it is composed so in
# each rank too. Path -> source.
_PLUGIN = "hydra_plugins/training_launcher/__init__.py"
_OF_AN_APPLICATION = (
    ("launcher/schema.py", "schema.py"),
    ("launcher/hydra_app/__init__.py", "hydra_app/__init__.py"),
    ("launcher/hydra_app/callback.py", "hydra_app/callback.py"),
    (_PLUGIN, _PLUGIN),
)


def plan(job: JobSpec, facts: Facts, run_id: str, *, alone: bool = True) -> LaunchPlan:
    """Return everything that submitting ``job`` as ``run_id`` will do; raise PlanError if nothing.

    ``alone``: by a call of its own; a run of a sweep is queued with its group. PlanError: the job
    cannot be expressed on this compute with this dist.
    """
    check(job)
    job.compute.refuse(job, facts)
    run_dir = f"{job.runs_dir}/{run_id}"
    support = _SUPPORT | (_BY_CONTENT if job.compute.stage == "objects" else {})
    files = (
        PlannedFile(path="launch.sh", text=script(job, facts), mode=0o755),
        *own_files(job),
        *job.compute.files(job, facts, run_dir, alone=alone),
        *((PlannedFile(path="build.json", text=_build(job, facts)),) if late(job, facts) else ()),
        *((PlannedFile(path="data.trees", text=_digests(facts)),) if facts.data else ()),
        *(_copy(f"support/{name}", source) for name, source in support.items()),
        *(_copy(f"support/lib/{path}", source) for path, source in _imports(job)),
    )
    return LaunchPlan(
        name=job.name,
        run_id=run_id,
        run_dir=run_dir,
        files=files,
        build=() if facts.prefix.ready else facts.prefix.commands,
        commands=job.compute.commands(job, facts, run_dir) if alone else (),
        job_name=f"{job.name}-{run_id}",
        env={name: shell_word(value) for name, value in _environment(job, facts).items()},
        secrets=job.secrets,
        data=facts.data,
    )


def own_files(job: JobSpec) -> tuple[PlannedFile, ...]:
    """Return the files that two runs may differ in that differ in their scripts' arguments only."""
    files = [PlannedFile(path="ranks.json", text=ranks(job))]
    if job.application is not None:
        files.append(PlannedFile(path="application.json", text=job.application.composed))
        if job.application.outputs:
            files.append(PlannedFile(path="outputs", text=job.application.outputs, mode=LINK))
    return tuple(files)


def _imports(job: JobSpec) -> tuple[tuple[str, str], ...]:
    """Return (path, source) of what a script can import where the launcher is not installed."""
    report = (("launcher/__init__.py", "report.py"),)
    return (*report, *_OF_AN_APPLICATION) if job.hydra else report


def check(job: JobSpec) -> None:
    """Raise PlanError when so many ranks cannot be had there, or not be started this way."""
    job.dist.check(job.resources)
    job.compute.check(job.resources)
    if job.dist.horovod and not job.environment.horovod:
        raise PlanError(
            "environment.horovod=null: this dist initialises Horovod",
            hint="Add dist.horovod=false to start the ranks without it.",
        )


def late(job: JobSpec, facts: Facts) -> bool:
    """Return whether the environment is built inside the job."""
    return job.environment.build_on == "job" and not facts.prefix.ready


def _build(job: JobSpec, facts: Facts) -> str:
    """Return the text of build.json: what the job builds before its ranks start, and where."""
    values = {
        "environment": asdict(job.environment),
        "horovod": job.dist.horovod,
        "mpi": job.dist.kind == "mpi",
        "path": facts.prefix.path,
    }
    return json.dumps(values, indent=1) + "\n"


def _digests(facts: Facts) -> str:
    """Return the text of data.trees: what hosts must keep for the run."""
    return "".join(f"{each.digest}\n" for each in facts.data)


def ranks(job: JobSpec) -> str:
    """Return the text of ranks.json: what every rank's bootstrap reads."""
    values = {
        "entry": job.entry,
        "args": job.args,
        "dist": job.dist.kind,
        "nodes": job.resources.nodes,
        "procs_per_node": job.resources.procs_per_node,
        "gpus_per_proc": job.resources.gpus_per_proc,
        "horovod": job.dist.horovod,
        "secrets": job.secrets,
        "stage": job.compute.stage,
    }
    return json.dumps(values, indent=1) + "\n"


def script(job: JobSpec, facts: Facts) -> str:
    """Return the text of launch.sh, which the first node runs: code, setup, variables, ranks."""
    sections = (_header(), _code(job, facts), _setup(job), _exports(job, facts), _step(job, facts))
    return "\n".join("\n".join(lines) + "\n" for lines in sections if lines)


def _header() -> tuple[str, ...]:
    return (
        "#!/usr/bin/env bash",
        "# Starts the ranks of the run in whose folder this file lies.",
        "set -e",
        "here=${BASH_SOURCE[0]}",
        'case $here in */*) cd -P -- "${here%/*}" ;; *) cd -P . ;; esac',
        'export LAUNCHER_RUN_DIR="$PWD"',
    )


def _code(job: JobSpec, facts: Facts) -> tuple[str, ...]:
    """Return the lines that check the recorded source out, once, into the run's own folder."""
    if job.compute.stage == "objects":
        folders = " ".join(WRITTEN)
        return ("# the code: the first rank of each host makes it", f"mkdir -p {folders}")
    ref = '"refs/launcher/runs/${LAUNCHER_RUN_DIR##*/}:"'
    git = ("git", "-c", "core.hooksPath=/dev/null", "-c", "core.sparseCheckout=false")
    there = ("--git-dir", facts.git_dir)
    before: tuple[str, ...] = ()
    attributes: tuple[Word, ...] = ()
    after: tuple[str, ...] = ("  rm -rf code/.launcher",)
    if facts.source_prefix:
        # Attributes that stand above the source directory hold for it too, as Git LFS wants it.
        show = shell_line((*git, *there, "cat-file", "-p", ShellExpr(ref + ".gitattributes")))
        before, after = (f"  {show} > code.attributes 2> /dev/null || :",), ()
        attributes = ("-c", ShellExpr('core.attributesFile="$LAUNCHER_RUN_DIR/code.attributes"'))
    words = (
        ShellExpr('GIT_INDEX_FILE="$LAUNCHER_RUN_DIR/code.index.new"'),
        *git,
        *attributes,
        *there,
        "--work-tree=code",
        *("read-tree", "--reset", "-u"),
        ShellExpr(ref + _quoted(facts.source_prefix)),
    )
    return (
        "# the code, as it was recorded",
        "unset GIT_DIR GIT_WORK_TREE GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "if [ ! -e code.index ]; then",
        "  mkdir -p " + " ".join(WRITTEN),
        "  rm -f code.index.new code.index.new.lock",  # of a checkout that was killed
        *before,
        f"  {shell_line(words)}",
        *after,
        # One file travels to the nodes' own disks quicker than thousands do.
        *(("  tar -cf code.tar -C code .",) if job.compute.stage == "scratch" else ()),
        "  mv code.index.new code.index",
        "fi",
    )


def _setup(job: JobSpec) -> tuple[str, ...]:
    lines = (*job.compute.setup, *job.environment.setup)
    return ("# setup, from the configuration", *lines) if lines else ()


def _environment(job: JobSpec, facts: Facts) -> dict[str, Word]:
    """Return the variables that launch.sh exports, in order; the user's own win."""
    programs = os.path.dirname(facts.prefix.python)
    values: dict[str, Word] = {**_OWN, "PATH": ShellExpr(f'{_quoted(programs)}:"$PATH"')}
    if facts.prefix.kind == "venv" and facts.prefix.mpirun.startswith(facts.prefix.path):
        # Before the libraries of another Open MPI, as a loaded module puts them there.
        own = _quoted(f"{facts.prefix.path}/lib:{facts.prefix.path}/lib/openmpi")
        values["LD_LIBRARY_PATH"] = ShellExpr(own + '"${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"')
    values |= job.dist.environment(job, facts)
    return values | job.env


def _exports(job: JobSpec, facts: Facts) -> tuple[str, ...]:
    return (
        "# variables of the ranks",
        *(shell_export(name, value) for name, value in _environment(job, facts).items()),
        *(f"# {name}: from the submitting environment, by name" for name in job.secrets),
    )


def _step(job: JobSpec, facts: Facts) -> tuple[str, ...]:
    rank: tuple[Word, ...] = (
        facts.prefix.python,
        ShellExpr('"$LAUNCHER_RUN_DIR/support/bootstrap.py"'),
        ShellExpr('"$LAUNCHER_RUN_DIR/ranks.json"'),
    )
    words = job.dist.start(rank, job, facts, tuple(_environment(job, facts)))
    return (
        "# the ranks",
        *(job.compute.before_step(job.resources, facts) if job.dist.kind == "mpi" else ()),
        'cd -- "$LAUNCHER_RUN_DIR/code"',
        shell_line((ShellExpr("exec"), *words)),
    )


def _quoted(text: str) -> str:
    return shell_word(text) if text else ""


@functools.cache
def _copy(path: str, source: str) -> PlannedFile:
    above, name = [_HERE], f"launcher/{source}"
    if source == _PLUGIN:  # beside us, or in a checkout in a folder of its own
        above, name = [_HERE.parent, _HERE.parent / "plugins"], source
    text = next(each / source for each in above if (each / source).exists()).read_text("utf-8")
    return PlannedFile(path=path, text=text, copied_from=name)
