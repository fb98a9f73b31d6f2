"""What every rank runs: a guard, and in its child the user's script with Horovod initialised.

Standard library only: this file is copied into the run's folder and run by the job's interpreter,
where the launcher need not be installed.

Why a guard process for each rank: it alone can tell how a rank really ended (exit status or
signal, whatever mpirun or srun print), keep its last lines when it is killed, and keep secrets out
of its log. It costs one fork before anything is imported; guard.py, which only the guard needs, is
loaded while its rank starts.

Why a file for the arguments: Open MPI takes a lone ':' for the next program. Read from
``ranks.json``, every byte reaches ``sys.argv`` unchanged.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import sys
from collections import namedtuple
from types import CodeType, ModuleType

TYPE_CHECKING = False  # typing's own costs 3 ms of every rank's start
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Names of (rank, world size, local rank, node rank) as mpirun, which sets no last, and srun do.
_STARTERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", ""),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID"),
)
_WRONG_WORLD = 86  # exit status when the ranks do not see each other
_NOTED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


# Which of the ranks this one is. Not typing's NamedTuple: see above.
Who = namedtuple("Who", "rank world_size local_rank node_rank", defaults=(0, 1, 0, 0))  # noqa: PYI024


class Refusal(Exception):  # noqa: N818 - nothing went wrong in here
    """Why the user's script is not run: what to say, and the exit status."""

    def __init__(self, reason: str, status: int = 1) -> None:
        super().__init__(reason)
        self.status = status


def identity(spec: dict[str, Any], env: Mapping[str, str]) -> Who:
    """Return which rank this process is, as its starter set it."""
    for *names, node in _STARTERS if spec["dist"] == "mpi" else ():
        if all(name in env for name in names):
            rank, size, local_rank = (int(env[name]) for name in names)
            node_rank = env[node] if node in env else rank // int(spec["procs_per_node"])
            return Who(rank, size, local_rank, int(node_rank))
    return Who()


def rank_environment(
    spec: dict[str, Any], who: Who, env: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the variables that scripts expect of any starter; none for ``dist=single``.

    Those of Open MPI are what mpirun sets, those of Slurm what srun sets, by whichever the rank
    was started: under mpirun Slurm's would tell of mpirun's own processes.
    """
    if spec["dist"] == "single":
        return {}
    size, per_node = who.world_size, int(spec["procs_per_node"])
    own = {"RANK": who.rank, "LOCAL_RANK": who.local_rank, "WORLD_SIZE": size}
    own |= {"LOCAL_WORLD_SIZE": per_node, "NODE_RANK": who.node_rank}
    world = {"RANK": who.rank, "SIZE": size, "LOCAL_RANK": who.local_rank}
    # Open MPI's node rank is the local rank, counted over all worlds on the node: here is one.
    world |= {"LOCAL_SIZE": per_node, "NODE_RANK": who.local_rank}
    values = own | {f"OMPI_COMM_WORLD_{name}": value for name, value in world.items()}
    values |= {"OMPI_UNIVERSE_SIZE": size, "OMPI_WORLD_SIZE": size}
    values |= {"OMPI_WORLD_LOCAL_SIZE": per_node}
    if "SLURM_JOB_ID" in env:
        values |= {"SLURM_PROCID": who.rank, "SLURM_LOCALID": who.local_rank}
        values |= {"SLURM_NODEID": who.node_rank, "SLURM_NTASKS": size, "SLURM_NPROCS": size}
    return {name: str(value) for name, value in values.items()}


def initialise_horovod(spec: dict[str, Any], who: Who) -> None:
    """Initialise Horovod and pin this rank's GPU; Refusal if the ranks do not see each other."""
    try:
        import horovod.torch as hvd  # noqa: PLC0415
    except ImportError as error:
        raise Refusal(
            f"{sys.executable} cannot import Horovod: {error}; environment."
            "provision=venv builds one that can, dist.horovod=false does without."
        ) from error
    hvd.init()
    if hvd.size() != who.world_size:
        raise Refusal(_wrong_world(hvd.size(), who.world_size), _WRONG_WORLD)
    if spec["gpus_per_proc"]:
        import torch  # noqa: PLC0415

        if torch.cuda.is_available():
            # A scheduler may show each rank its own GPUs only, numbered from 0.
            first = who.local_rank * spec["gpus_per_proc"]
            torch.cuda.set_device(first % torch.cuda.device_count())


def _wrong_world(seen: int, expected: int) -> str:
    return (
        f"{expected} ranks were asked for, this one sees {seen}: they were not started "
        "by the MPI that this environment's Horovod is built with. Nothing was trained."
    )


def _first_on_path(folder: str) -> None:
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, folder)  # as Python does for a script


def _load(entry: list[str]) -> tuple[CodeType, dict[str, Any], str]:
    """Return the code of the script or module, its module globals, and ``sys.argv[0]``."""
    if entry[0] != "-m":
        path = os.path.abspath(entry[0])
        _first_on_path(os.path.dirname(path))
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        return code, {"__file__": path, "__spec__": None, "__package__": None}, entry[0]
    _first_on_path(os.getcwd())
    name = entry[1]
    found = importlib.util.find_spec(name)
    if found is not None and found.submodule_search_locations is not None:
        found = importlib.util.find_spec(f"{name}.__main__")
    loader: Any = found and found.loader
    if found is None or not hasattr(loader, "get_code"):
        sys.exit(f"launcher: no module {name!r} that can be run (entry_script='-m {name}')")
    names = {"__file__": found.origin, "__spec__": found, "__package__": found.parent}
    code = loader.get_code(found.name)
    return code, {**names, "__loader__": loader, "__cached__": found.cached}, found.origin or name


def run_script(spec: dict[str, Any]) -> int:
    """Run the user's script as ``__main__`` and return the exit status it asked for."""
    try:
        code, names, argv0 = _load(spec["entry"])
        sys.argv[:] = [argv0, *spec["args"]]
        # A module of its own, and kept: atexit handlers and spawned workers look it up.
        main = ModuleType("__main__")
        main.__dict__.update({"__builtins__": __builtins__, **names})
        sys.modules["__main__"] = main
        exec(code, main.__dict__)  # noqa: S102
    except SystemExit as leave:
        if leave.code is None or isinstance(leave.code, int):
            return leave.code or 0
        print(leave.code, file=sys.stderr)
        return 1
    except BaseException as error:  # noqa: BLE001 - shown as Python itself would show it
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def child(spec: dict[str, Any], who: Who, output: int, refusal: int) -> int:
    """Become the rank: output into the guard's pipe, Horovod, then the script.

    What keeps us from running the script goes into the pipe ``refusal``, for the guard to tell.
    """
    _die_with_parent()
    for number in _NOTED:
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NOTED)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    _surround(spec, who)
    status = 0
    if who.world_size > 1:

        @atexit.register  # the first one registered is the last one that runs
        def leave() -> None:
            # A failed rank must not wait in MPI's or Horovod's farewell for ranks that go on.
            if status:
                sys.stdout.flush()
                os._exit(status & 0xFF or 1)

    if spec["horovod"]:
        try:
            initialise_horovod(spec, who)
        except Refusal as error:
            os.write(refusal, str(error).encode("utf-8", "backslashreplace"))
            print(f"launcher: {error}", file=sys.stderr, flush=True)
            os._exit(error.status)
    os.close(refusal)
    status = run_script(spec)
    basics = getattr(sys.modules.get("horovod.torch.mpi_ops"), "_basics", None)
    if status and basics:
        atexit.unregister(basics.shutdown)  # it would end the other ranks' world before this one
    return status


def _surround(spec: dict[str, Any], who: Who) -> None:
    """Set the variables and the import path that the script is to find."""
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # this file's own folder
    for name in ("LAUNCHER_CONTROL", "LAUNCHER_CONTROL_HOST"):  # of this run, not of one in it
        os.environ.pop(name, None)
    os.environ.update(rank_environment(spec, who))
    if importlib.util.find_spec("launcher") is None:  # else it has report, and more
        sys.path.append(os.path.join(os.environ["LAUNCHER_RUN_DIR"], "support", "lib"))


def _die_with_parent() -> None:
    # A chain from the supervisor to every rank: whoever is killed, nothing is left running.
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _beside(name: str) -> ModuleType:
    """Return the module ``name`` beside this file, kept out of the user's sight.

    A user may have a guard.py or a stage.py: ours are in no ``sys.modules``, nor on the path.
    """
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    module = ModuleType(f"_launcher_{name}")
    with open(path, "rb") as file:
        exec(compile(file.read(), path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102
    return module


def _staged(spec: dict[str, Any]) -> Any:
    """Enter the node's own copy of the code and return what made it; None where there is none."""
    kind = spec.get("stage")
    if kind not in ("scratch", "objects"):
        return None
    try:
        if kind == "scratch":
            stage = _beside("stage").Stage(os.environ)
        else:
            stage = _beside("objects").Code(os.environ["LAUNCHER_RUN_DIR"])
        stage.enter()
    except OSError as error:
        raise Refusal(f"the code cannot be put on this node's own disk: {error}") from error
    os.chdir(stage.path)
    os.environ["PWD"] = stage.path
    return stage


def _check_world(spec: dict[str, Any], who: Who) -> None:
    expected = spec["nodes"] * spec["procs_per_node"]
    if who.world_size != expected:
        raise Refusal(_wrong_world(who.world_size, expected), _WRONG_WORLD)


def main(path: str) -> int:
    """Start one rank as ``ranks.json`` at ``path`` describes it."""
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    folder = os.environ["LAUNCHER_RUN_DIR"]
    who = identity(spec, os.environ)
    _die_with_parent()
    try:
        _check_world(spec, who)
        stage = _staged(spec)
    except Refusal as error:
        with contextlib.suppress(OSError):  # of a full disk, which may be why
            os.write(2, f"launcher: {error}\n".encode("utf-8", "backslashreplace"))
        return int(_beside("guard").Guard(folder, who.rank).refuse(error.status, str(error)))
    source, output = os.pipe()
    refusal, refuse = os.pipe()
    # The guard's for good: it looks which have come. A handler runs when Python gets to it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _NOTED)
    pid = os.fork()
    if pid == 0:
        os.close(source)
        os.close(refusal)
        return child(spec, who, output, refuse)
    os.close(output)
    os.close(refuse)
    guard = _beside("guard").Guard(folder, who.rank, pid, _NOTED)
    status = guard.keep(source, refusal, spec["secrets"])
    if stage is not None:
        os.chdir("/")
        stage.leave()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
