"""What every rank runs: a guard, and in its child the user's script with Horovod initialised.

Standard library only: this file is copied into the run's folder and run by the job's interpreter,
where the launcher need not be installed.

Why a guard process for each rank: it alone can tell how a rank really ended (exit status or
signal, whatever mpirun or srun print), keep its last lines when it is killed, and keep secrets out
of its log. It costs one fork before anything is imported.

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
import threading
import time
from collections import namedtuple
from types import CodeType, ModuleType

TYPE_CHECKING = False  # typing's own costs 3 ms of every rank's start
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Names of (rank, world size, local rank) as mpirun and srun set them.
_STARTERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)
_WRONG_WORLD = 86  # exit status when the ranks do not see each other
_NOTED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


# Which of the ranks this one is. Not typing's NamedTuple: see above.
Who = namedtuple("Who", "rank world_size local_rank", defaults=(0, 1, 0))  # noqa: PYI024


def identity(spec: dict[str, Any], env: Mapping[str, str]) -> Who:
    """Return which rank this process is, as its starter set it."""
    for names in _STARTERS if spec["dist"] == "mpi" else ():
        if all(name in env for name in names):
            return Who(*(int(env[name]) for name in names))
    return Who()


def rank_environment(spec: dict[str, Any], who: Who) -> dict[str, str]:
    """Return the variables that scripts expect of any starter; none for ``dist=single``."""
    if spec["dist"] == "single":
        return {}
    per_node = int(spec["procs_per_node"])
    values = {"RANK": who.rank, "LOCAL_RANK": who.local_rank}
    values |= {f"OMPI_COMM_WORLD_{name}": value for name, value in values.items()}
    values |= {"WORLD_SIZE": who.world_size, "OMPI_COMM_WORLD_SIZE": who.world_size}
    values |= {"LOCAL_WORLD_SIZE": per_node, "OMPI_COMM_WORLD_LOCAL_SIZE": per_node}
    values["NODE_RANK"] = who.rank // per_node
    return {name: str(value) for name, value in values.items()}


def initialise_horovod(spec: dict[str, Any], who: Who) -> None:
    """Initialise Horovod and pin this rank's GPU; exit when the ranks do not see each other."""
    try:
        import horovod.torch as hvd  # noqa: PLC0415
    except ImportError as error:
        sys.exit(
            f"launcher: {sys.executable} cannot import Horovod: {error}\nlauncher: environment."
            "provision=venv builds one that can; dist.horovod=false does without."
        )
    hvd.init()
    if hvd.size() != who.world_size:
        print(_wrong_world(hvd.size(), who.world_size), file=sys.stderr, flush=True)
        os._exit(_WRONG_WORLD)
    if spec["gpus_per_proc"]:
        import torch  # noqa: PLC0415

        if torch.cuda.is_available():
            # A scheduler may show each rank its own GPU only, numbered 0.
            torch.cuda.set_device(who.local_rank % torch.cuda.device_count())


def _wrong_world(seen: int, expected: int) -> str:
    return (
        f"launcher: {expected} ranks were asked for, this one sees {seen}: they were not started "
        "by the MPI that this environment's Horovod is built with. Nothing was trained."
    )


def _first_on_path(folder: str) -> None:
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = folder  # in place of this file's own folder, as Python does for a script


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


def child(spec: dict[str, Any], who: Who, output: int) -> int:
    """Become the rank: output into the guard's pipe, Horovod, then the script."""
    _die_with_parent()
    for number in _NOTED:
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, handler)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.update(rank_environment(spec, who))
    if importlib.util.find_spec("launcher") is None:  # else it has report, and more
        sys.path.append(os.path.join(os.environ["LAUNCHER_RUN_DIR"], "support", "lib"))
    status = 0
    if who.world_size > 1:

        @atexit.register  # the first one registered is the last one that runs
        def leave() -> None:
            # A failed rank must not wait in MPI's or Horovod's farewell for ranks that go on.
            if status:
                sys.stdout.flush()
                os._exit(status & 0xFF or 1)

    if spec["horovod"]:
        initialise_horovod(spec, who)
    status = run_script(spec)
    basics = getattr(sys.modules.get("horovod.torch.mpi_ops"), "_basics", None)
    if status and basics:
        atexit.unregister(basics.shutdown)  # it would end the other ranks' world before this one
    return status


def _die_with_parent() -> None:
    # A chain from the supervisor to every rank: whoever is killed, nothing is left running.
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def secret_values(names: list[str]) -> list[bytes]:
    """Return the values to mask in the log: each line of each secret, longest first."""
    values = [os.environb.get(name.encode(), b"") for name in names]
    # To mask less than four bytes would only garble the log.
    parts = {part for value in values for part in value.splitlines() if len(part) >= 4}
    return sorted(parts, key=len, reverse=True)


class Relay:
    """Copies a pipe into a log, both file descriptors, with each of ``secrets`` masked."""

    def __init__(self, source: int, log: int, secrets: list[bytes]) -> None:
        self.source, self.log, self.secrets, self.held = source, log, secrets, b""

    def run(self) -> None:
        """Copy until the pipe ends."""
        while read := os.read(self.source, 1 << 16):
            data = self.held + read
            for secret in self.secrets:
                data = data.replace(secret, b"***")
            # What may be the beginning of a secret waits for the rest of it.
            cut = len(data) - max((_overlap(data, each) for each in self.secrets), default=0)
            self.held = data[cut:]
            _write(self.log, data[:cut])
        self.flush()

    def flush(self) -> None:
        """Write what waits."""
        held, self.held = self.held, b""
        _write(self.log, held)


def _overlap(data: bytes, secret: bytes) -> int:
    ends = range(min(len(data), len(secret) - 1), 0, -1)
    return next((n for n in ends if data.endswith(secret[:n])), 0)


def _write(file: int, data: bytes) -> None:
    # A full disk costs log lines, never the training: the rank must not block on its pipe.
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(file, data) :]


def _record(folder: str, entry: dict[str, Any]) -> None:
    path = os.path.join(folder, "ranks", f"{entry['rank']}.json")
    with contextlib.suppress(OSError):
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(entry, file)
        os.replace(path + ".new", path)


def _linger(folder: str) -> None:
    # While a run is stopped, mpirun would kill all ranks once one of them ends: the first to end
    # waits, so that the others have their grace period.
    while os.path.exists(os.path.join(folder, "stopping")):  # or until our parent ends us
        time.sleep(0.05)


class Guard:
    """The process that starts one rank, keeps its log, and tells how it ended."""

    def __init__(self, folder: str, rank: int, secrets: list[bytes]) -> None:
        """Note the signals that the starter sends to the process group: the rank has them too."""
        self.folder = folder
        self.secrets = secrets
        self.entry: dict[str, Any] = {"rank": rank, "host": os.uname().nodename}
        self.signals: list[int] = []
        for number in _NOTED:
            signal.signal(number, lambda noted, _frame: self.signals.append(noted))

    def keep(self, pid: int, source: int, log: int) -> int:
        """Wait for the rank ``pid``; return the exit status to leave with."""
        self.entry |= {"pid": pid, "guard": os.getpid(), "started": time.time()}
        _record(self.folder, self.entry)
        relay = Relay(source, log, self.secrets)
        copying = threading.Thread(target=relay.run, daemon=True)
        copying.start()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.entry |= {"ended": time.time(), "signals": self.signals[:]}
        # Processes that the rank left behind may hold its pipe open: its end is not waited for.
        copying.join(timeout=1.0)
        relay.flush()
        self.entry |= {"status": code} if code >= 0 else {"signal": -code}
        _record(self.folder, self.entry)
        _linger(self.folder)
        return code if code >= 0 else 128 - code


def main(path: str) -> int:
    """Start one rank as ``ranks.json`` at ``path`` describes it."""
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    folder = os.environ["LAUNCHER_RUN_DIR"]
    who = identity(spec, os.environ)
    expected = spec["nodes"] * spec["procs_per_node"]
    if who.world_size != expected:
        print(_wrong_world(who.world_size, expected), file=sys.stderr)
        return _WRONG_WORLD
    _die_with_parent()
    if os.path.exists(os.path.join(folder, "stopping")):
        return 128 + signal.SIGTERM
    path = os.path.join(folder, "logs", f"rank-{who.rank}.log")
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    keeper = Guard(folder, who.rank, secret_values(spec["secrets"]))
    source, output = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(source)
        os.close(log)
        return child(spec, who, output)
    os.close(output)
    os._exit(keeper.keep(pid, source, log))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
