"""The batch file, and the call that queues it. Both are submitit's; the words are the plan's.

Why a job is looked for before sbatch is called again: an answer that was lost on its way is no
proof that the job is not queued, and two jobs of one run would write to one folder.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
import time
from typing import TYPE_CHECKING, Any

from launcher import process
from launcher.errors import PlanError, SubmitError
from launcher.slurm.ask import ask, no_answer, silent
from launcher.slurm.refusal import full, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from launcher.process import Running

_PAUSES_S = (1, 2, 4, 8, 16)
_FAR_S = 366 * 86400
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
# Variables of sbatch that are not called as the option is. Source: sbatch(1)
_VARIABLES = {
    "time": ("TIMELIMIT",),
    "mem": ("MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU"),  # only one of them may be given
    "switches": ("REQ_SWITCH", "WAIT4SWITCH"),
    "requeue": ("REQUEUE", "NO_REQUEUE"),
    "no-requeue": ("REQUEUE", "NO_REQUEUE"),
}
# These would make of our job another thing than one that runs by itself and writes its own log.
_NEVER = ("WAIT", "ARRAY_INX", "ERROR", "INPUT")
_OF_A_JOB = re.compile(r"(SLURM|SLURMD|SRUN|SUBMITIT)_")


def load() -> None:
    """Import submitit, which takes 40 ms."""
    import submitit  # noqa: F401, PLC0415


def text(parameters: Mapping[str, Any], command: str, folder: str) -> str:
    """Return the batch file that submitit renders: sbatch's options, then ``command``.

    ``parameters``: options by name; true: the bare option; null, false: left out; a list: joined
    by commas; "setup": shell lines before the command. PlanError for what a file cannot hold.
    """
    from submitit import SlurmExecutor  # noqa: PLC0415 - 50 ms, and only Slurm's jobs need it

    class Renderer(SlurmExecutor):  # type: ignore[misc, unused-ignore]
        @classmethod
        def affinity(cls) -> int:
            return 1  # a plan can be made where there is no srun

    executor = Renderer(folder)
    executor.update_parameters(
        # submitit's own defaults for these would be a limit and a log that nobody asked for
        time=None,
        wckey=None,
        use_srun=False,
        stderr_to_stdout=True,
        setup=list(parameters.get("setup") or ()) or None,
        # it has no way to send no signal at all; this one a process does not notice
        additional_parameters={"signal": "B:CONT@0", **_options(parameters)},
    )
    return str(executor._make_submission_file_text(command, ""))  # noqa: SLF001 - made to be used


def _options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as submitit names and quotes them; a later one replaces an earlier."""
    options: dict[str, Any] = {}
    for key, value in parameters.items():
        name = str(key).lstrip("-").replace("_", "-")
        if name == "setup":
            continue
        if not _OPTION.fullmatch(name):
            raise PlanError(
                f"compute.extra: '{key}' is no option of sbatch",
                hint="Options by their long names, such as compute.extra.nice=100.",
            )
        options.pop(name.replace("-", "_"), None)
        if value is not None and value is not False:
            options[name.replace("-", "_")] = value if value is True else _value(name, value)
    return options


def _value(name: str, value: Any) -> str:
    words = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    if re.search(r"[\n\r\0]", words):
        raise PlanError(
            f"compute: the value of sbatch's option {name} holds a line break or a NUL byte",
            hint=f"{words!r} must be one line.",
        )
    # sbatch takes a backslash away even between single quotes, where a shell keeps it
    return words.replace("\\", "\\\\")


def literal(path: str) -> str:
    """Return the pattern of a file name, as sbatch's ``--output`` reads it, that means ``path``."""
    # One backslash anywhere makes Slurm leave every '%' alone, and takes itself away.
    return path.replace("\\", "\\\\") if "\\" in path else path.replace("%", "%%")


def environment(options: Iterable[str], env: Mapping[str, str]) -> dict[str, str]:
    """Return ``env`` for sbatch, without what would override ``options`` of the plan.

    A variable wins over a line of the batch file: those for options of the plan go, and so do
    those of a job that we may be in. Others are the user's, or the site's, own defaults, and stay.
    """
    gone = {f"SBATCH_{each}" for each in _NEVER}
    for each in options:
        name = str(each).lstrip("-").replace("_", "-")
        variables = _VARIABLES.get(name, (name.upper().replace("-", "_"),))
        gone.update(f"SBATCH_{variable}" for variable in variables)
    return {
        name: value
        for name, value in env.items()
        if name == "SLURM_CONF" or not (name in gone or _OF_A_JOB.match(name))
    }


def submit(
    argv: tuple[str, ...],
    job_name: str,
    env: Mapping[str, str],
    say: Callable[[str], None],
    lock: int | None = None,
) -> str:
    """Return the id of the job that ``argv``, an sbatch, has queued. ``env`` is its environment.

    ``job_name`` is the job's own: by it a job is found whose id did not reach us. A passing error
    is said through ``say`` and tried again, for half a minute; SubmitError after that, and for an
    error that stays. ``lock``, of a job array: an open file that sbatch holds until its own end,
    even if we die; that there is no room for so many tasks does not pass.
    """
    failed: SubmitError | None = None
    for pause in (0, *_PAUSES_S):
        if failed is not None:
            say(f"launcher: {failed.message}; trying again in {pause} s")
            time.sleep(pause)
        try:
            found = None if failed is None else find(job_name)
            with _as_input(lock):
                return found or _sbatch(argv, env)
        except SubmitError as error:
            if not error.transient or (lock is not None and full(error.stderr)):
                raise
            failed = error
    assert failed is not None  # noqa: S101 - for the type checker
    raise failed


def fewer(argv: tuple[str, ...], count: int) -> tuple[int, tuple[str, ...]]:
    """Return how many tasks of an array of ``count`` Slurm would take now, and the sbatch of those.

    ``argv``: an sbatch that was refused, as there is no room. Slurm is asked by halves.
    """
    program, path = argv
    most = re.search(r"^#SBATCH --array=\S*(%\d+)$", _script(argv), re.MULTILINE)
    fits = 0
    while count - fits > 1:
        middle = (fits + count) // 2
        done = ask((program, "--test-only", f"--array=0-{middle - 1}", path))
        fits, count = (fits, middle) if done.status else (middle, count)
    return fits, (program, f"--array=0-{fits - 1}{most[1] if most else ''}", path)


@contextlib.contextmanager
def _as_input(lock: int | None) -> Iterator[None]:
    """Make ``lock`` the standard input of what is started meanwhile; sbatch reads none."""
    if lock is None:
        yield
        return
    kept = os.dup(0)
    try:
        os.dup2(lock, 0)
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def _sbatch(argv: tuple[str, ...], env: Mapping[str, str]) -> str:
    """Return the job's id; SubmitError, transient or not."""
    from submitit import SlurmExecutor, SlurmJob  # noqa: PLC0415
    from submitit.core.utils import CommandFunction, FailedJobError  # noqa: PLC0415

    class Submitter(SlurmExecutor):  # type: ignore[misc, unused-ignore]
        @classmethod
        def affinity(cls) -> int:
            return 2  # that sbatch is not there, its own start tells

        def _submit_command(self, command: str) -> Any:  # noqa: ARG002
            # The planned words and their environment, which submitit would take from os.environ.
            output = CommandFunction(list(argv), verbose=False, env=dict(env))()
            job_id = self._get_job_id_from_submission_command(output)
            return SlurmJob(folder=self.folder, job_id=job_id, tasks=[0])

        @staticmethod
        def _get_job_id_from_submission_command(string: str | bytes) -> str:
            return _job_id(argv, string if isinstance(string, str) else string.decode())

    with tempfile.TemporaryDirectory() as folder:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it also raises
                return str(Submitter(folder)._submit_command("").job_id)  # noqa: SLF001
        except FailedJobError as error:
            status = getattr(error.__cause__, "returncode", None)
            raise refusal(argv, status, str(error), _script(argv)) from error
        except OSError as error:
            raise SubmitError(
                f"{argv[0]} cannot be run: {error.strerror}",
                hint="compute=slurm needs Slurm's commands: log in where sbatch is on PATH.",
                argv=argv,
                exit_status=127,
            ) from error


def _script(argv: tuple[str, ...]) -> str:
    with contextlib.suppress(OSError), open(argv[-1], encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def _job_id(argv: tuple[str, ...], output: str) -> str:
    """Return the id in ``12``, ``12;cluster`` or ``Submitted batch job 12``."""
    found = re.search(r"^(?:Submitted batch job )?(\d+)(?:;.*)?$", output.strip(), re.MULTILINE)
    if found is None:
        # Passing, so that the job is looked for before anything else is done.
        raise SubmitError(
            f"sbatch said no job id: {output[:200]!r}", argv=argv, exit_status=0, transient=True
        )
    return found[1]


def find(job_name: str) -> str | None:
    """Return the id of this user's job, or job array, called ``job_name``; None: there is none.

    SubmitError, transient, when Slurm does not answer: then nothing is known.
    """
    words = (f"--user={os.getuid()}", "--all", "--states=all", f"--name={job_name}", "--format=%F")
    done = ask(("squeue", "--noheader", *words))
    if done.status:
        raise no_answer(done)
    if done.stdout.split():
        return done.stdout.split()[-1]
    # It may have ended meanwhile. Without accounting sacct refuses, and there is no more to ask.
    past = ("--starttime=now-7days", "--format=JobID", f"--uid={os.getuid()}")
    table = ("--noheader", "--parsable2", "--allocations", f"--name={job_name}")
    done = ask(("sacct", *table, *past))
    if silent(done):
        raise no_answer(done)
    known = done.stdout.split()
    return known[-1].partition("_")[0] if not done.status and known else None


class Estimate:
    """The start that Slurm expects of a job like the one that ``argv``, an sbatch, queues."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start the question, which nobody waits for yet."""
        words = (argv[0], "--test-only", *argv[1:])
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the answer
        self._asked: Running | None = None
        with contextlib.suppress(OSError):
            known = {**env, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C.UTF-8"}
            self._asked = process.start(words, log=self._log, env=known)

    def result(self, timeout_s: float) -> float | None:
        """Return the expected start, seconds since the epoch; None: not told in time."""
        end = time.monotonic() + timeout_s
        if self._log.closed:
            return None
        with self._log:
            while self._asked is not None and self._asked.poll() is None:
                if time.monotonic() > end:
                    self._asked.kill()
                    return None
                time.sleep(0.002)
            self._log.seek(0)
            return expected(self._log.read().decode("utf-8", "replace"))


def estimate(argv: Sequence[str], env: Mapping[str, str]) -> Estimate:
    """Return the question when a job would start, on its way; ``result`` waits for the answer."""
    return Estimate(argv, env)


def expected(output: str) -> float | None:
    """Return the start in what ``sbatch --test-only`` prints, seconds since the epoch."""
    found = re.search(r"to start at (\d+) ", output)
    start = float(found[1]) if found else None
    # Behind jobs without a limit it is a thousand years away, which means: not known.
    return start if start is not None and start < time.time() + _FAR_S else None
