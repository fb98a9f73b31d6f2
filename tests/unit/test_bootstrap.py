from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from launcher.bootstrap import identity, rank_environment
from launcher.guard import Relay, secret_values

if TYPE_CHECKING:
    from collections.abc import Callable

BOOTSTRAP = Path(__file__).parents[2] / "launcher" / "bootstrap.py"
SECRETS = [b"sesame-open", b"sess", b"12345678"]


@pytest.mark.parametrize("seed", range(20))
def test_no_secret_passes_however_the_pipe_cuts_it(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    parts = [b"sesame-open", b"12345678", b"ses", b"x", b"\n", b"123", b"sesame-ope", b"s" * 9]
    text = b"".join(rng.choices(parts, k=300))
    source, output = os.pipe()
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    relay = Relay(source, log, sorted(SECRETS, key=len, reverse=True))
    expected = text
    for secret in sorted(SECRETS, key=len, reverse=True):
        expected = expected.replace(secret, b"***")
    pieces = [text[i : i + 7] for i in range(0, len(text), 7)]
    pid = os.fork()
    if pid == 0:
        for piece in pieces:
            os.write(output, piece)
        os._exit(0)
    os.close(output)
    relay.run()
    os.waitpid(pid, 0)
    os.close(source)
    os.close(log)
    seen = (tmp_path / "log").read_bytes()
    assert not any(secret in seen for secret in (b"sesame-open", b"12345678"))
    assert len(seen) > len(expected) // 2


def test_what_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "first-line\nno\nsecond-line")
    assert secret_values(["KEY", "NOT_SET"]) == [b"second-line", b"first-line"]


def test_who_a_rank_is() -> None:
    mpi = {"dist": "mpi", "procs_per_node": 2}
    env = {f"OMPI_COMM_WORLD_{name}": "3" for name in ("RANK", "LOCAL_RANK")}
    env |= {"OMPI_COMM_WORLD_SIZE": "4", "SLURM_PROCID": "9"}
    assert tuple(identity(mpi, env)) == (3, 4, 3, 1)
    slurm = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
    assert tuple(identity(mpi, slurm)) == (3, 4, 1, 1)
    # srun may deal ranks out to nodes in turn
    assert tuple(identity(mpi, {**slurm, "SLURM_NODEID": "0"})) == (3, 4, 1, 0)
    assert tuple(identity({"dist": "single"}, slurm)) == (0, 1, 0, 0)
    assert tuple(identity(mpi, {})) == (0, 1, 0, 0)


def test_the_variables_of_a_rank() -> None:
    mpi = {"dist": "mpi", "procs_per_node": 2}
    slurm = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
    who = identity(mpi, slurm)
    names = rank_environment(mpi, who, {})
    assert (names["RANK"], names["WORLD_SIZE"], names["NODE_RANK"]) == ("3", "4", "1")
    assert names["OMPI_COMM_WORLD_LOCAL_RANK"] == names["LOCAL_RANK"] == "1"
    assert names["OMPI_COMM_WORLD_NODE_RANK"] == "1"
    assert names["OMPI_UNIVERSE_SIZE"] == names["OMPI_WORLD_SIZE"] == "4"
    assert not any(name.startswith("SLURM_") for name in names)
    assert rank_environment(mpi, who, {"SLURM_JOB_ID": "1"})["SLURM_NODEID"] == "1"
    assert rank_environment({"dist": "single"}, who, {}) == {}


@pytest.mark.parametrize("nodes", [1, 2, 3])
@pytest.mark.parametrize("per_node", [1, 2, 4])
def test_mpirun_and_srun_give_the_same_variables(nodes: int, per_node: int) -> None:
    spec = {"dist": "mpi", "procs_per_node": per_node}
    size = nodes * per_node
    for rank in range(size):
        node, local = divmod(rank, per_node)
        by_srun = {"SLURM_JOB_ID": "7", "SLURM_PROCID": f"{rank}", "SLURM_LOCALID": f"{local}"}
        by_srun |= {"SLURM_STEP_NUM_TASKS": f"{size}", "SLURM_NODEID": f"{node}"}
        world = {"RANK": rank, "SIZE": size, "LOCAL_RANK": local}
        by_mpirun = {f"OMPI_COMM_WORLD_{name}": f"{value}" for name, value in world.items()}
        # what the batch script has
        by_mpirun |= {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}
        names = [rank_environment(spec, identity(spec, env), env) for env in (by_srun, by_mpirun)]
        assert names[0] == names[1]
        assert names[0]["NODE_RANK"] == names[0]["SLURM_NODEID"] == str(node)


# ------------------------------------------------------------------ real processes


class Run:
    """A run's folder without a supervisor, in which ranks are started one by one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("code", "logs", "ranks"):
            (path / name).mkdir(parents=True)

    def start(self, script: str, *, env: dict[str, str] | None = None, **spec: Any) -> Any:
        values = {"entry": ["train.py"], "args": [], "dist": "single", "nodes": 1}
        values |= {"procs_per_node": 1, "gpus_per_proc": 0, "horovod": False, "secrets": []}
        (self.path / "code" / "train.py").write_text(script)
        (self.path / "ranks.json").write_text(json.dumps({**values, **spec}))
        inherited = {name: value for name, value in os.environ.items() if name[:5] != "SLURM"}
        return subprocess.Popen(
            [sys.executable, str(BOOTSTRAP), str(self.path / "ranks.json")],
            cwd=self.path / "code",
            env={**inherited, "LAUNCHER_RUN_DIR": str(self.path), **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, script: str, **options: Any) -> tuple[int, str]:
        """Return the guard's exit status and what it printed itself."""
        running = self.start(script, **options)
        out, _ = running.communicate(timeout=300)
        return running.returncode, out

    def log(self, rank: int = 0) -> str:
        path = self.path / "logs" / f"rank-{rank}.log"
        return path.read_text() if path.exists() else ""

    def record(self, rank: int = 0) -> dict[str, Any]:
        path = self.path / "ranks" / f"{rank}.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}


def rank(number: int, size: int) -> dict[str, str]:
    """Return the variables by which mpirun tells a rank which it is."""
    values = {"RANK": number, "SIZE": size, "LOCAL_RANK": number}
    return {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in values.items()}


def until(condition: Callable[[], Any], timeout_s: float = 180) -> Any:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"did not come true within {timeout_s} s")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "a run")


def test_a_rank_without_a_supervisor_leaves_its_record(run: Run) -> None:
    status, _ = run.finish("import sys; print('hello'); sys.exit(7)")
    assert status == 7
    assert run.log() == "hello\n"
    record = run.record()
    assert (record["rank"], record["status"], record["signals"]) == (0, 7, [])
    assert record["host"] == os.uname().nodename
    assert record["started"] <= record["ended"]
    assert "reason" not in record


def test_a_supervisor_that_cannot_be_reached_does_not_hold_a_rank_up(run: Run) -> None:
    before = time.monotonic()
    status, _ = run.finish("print(1)", env={"LAUNCHER_CONTROL": "1:" + "0" * 32})
    assert time.monotonic() - before < 25  # it would try for 30 s
    assert (status, run.record()["status"]) == (0, 0)


@pytest.mark.parametrize("entry", [["train.py"], ["-m", "train"]])
def test_a_user_may_have_modules_of_our_names(run: Run, entry: list[str]) -> None:
    for name in ("guard", "stage", "control", "bootstrap"):
        (run.path / "code" / f"{name}.py").write_text(f"print('own {name}')")
    script = (
        "import sys\nours = [n for n in sys.modules if n.startswith('_launcher') or n in "
        "('guard', 'stage', 'control', 'bootstrap')]\n"
        "print(ours, [p for p in sys.path if p.endswith('/launcher')])\n"
        "import guard, stage, control, bootstrap\n"
    )
    env = {"LAUNCHER_CONTROL": "1:x", "LAUNCHER_CONTROL_HOST": "127.0.0.1"}
    status, out = run.finish(script, entry=entry, env=env)
    assert (status, out) == (0, "")
    names = ("guard", "stage", "control", "bootstrap")
    assert run.log().splitlines() == ["[] []", *(f"own {name}" for name in names)]


def test_the_line_is_not_handed_to_the_script(run: Run) -> None:
    script = "import os\nprint([n for n in os.environ if n.startswith('LAUNCHER_CONTROL')])"
    run.finish(script, env={"LAUNCHER_CONTROL": "1:x", "LAUNCHER_CONTROL_HOST": "127.0.0.1"})
    assert run.log() == "[]\n"


def test_a_world_of_the_wrong_size_is_refused_at_once(run: Run) -> None:
    status, out = run.finish("print('trained')", dist="mpi", procs_per_node=2, env=rank(0, 1))
    assert status == 86
    assert "2 ranks were asked for, this one sees 1" in out
    assert run.record()["status"] == 86
    assert run.record()["reason"] in out
    assert run.log() == ""


HOROVOD = (
    "def init(): pass\ndef size(): return int(__import__('os').environ['SEEN'])\n"
    "def rank(): return 0\n"
)
TORCH = (
    "class cuda:\n    is_available = lambda: True\n"
    "    device_count = lambda: int(__import__('os').environ['GPUS'])\n"
    "    set_device = lambda number: print('device', number)\n"
)


def _stand_in(run: Run) -> dict[str, str]:
    # Of other people's libraries, which need GPUs or an MPI that does not fit.
    lib = run.path / "lib"
    (lib / "horovod").mkdir(parents=True)
    (lib / "horovod" / "__init__.py").write_text("")
    (lib / "horovod" / "torch.py").write_text(HOROVOD)
    (lib / "torch.py").write_text(TORCH)
    return {"PYTHONPATH": str(lib)}


def test_ranks_that_do_not_see_each_other_are_refused_with_the_reason(run: Run) -> None:
    env = {**_stand_in(run), **rank(1, 2), "SEEN": "1"}
    spec = {"dist": "mpi", "procs_per_node": 2, "horovod": True}
    status, _ = run.finish("print('trained')", env=env, **spec)
    assert status == run.record(1)["status"] == 86
    assert "2 ranks were asked for, this one sees 1" in run.record(1)["reason"]
    assert run.log(1) == f"launcher: {run.record(1)['reason']}\n"


@pytest.mark.parametrize(
    ("local_rank", "per_rank", "visible", "device"),
    [(1, 1, 4, 1), (1, 2, 4, 2), (1, 2, 2, 0), (3, 1, 1, 0), (1, 4, 8, 4)],
)
def test_which_gpu_a_rank_uses(
    run: Run, local_rank: int, per_rank: int, visible: int, device: int
) -> None:
    env = {**_stand_in(run), **rank(local_rank, 4), "SEEN": "4", "GPUS": str(visible)}
    spec = {"dist": "mpi", "procs_per_node": 4, "horovod": True, "gpus_per_proc": per_rank}
    assert run.finish("", env=env, **spec)[0] == 0
    assert run.log(local_rank) == f"device {device}\n"


def test_no_horovod_is_told_as_the_reason(run: Run) -> None:
    (run.path / "lib" / "horovod").mkdir(parents=True)
    env = {"PYTHONPATH": str(run.path / "lib")}
    status, _ = run.finish("print('trained')", env=env, dist="mpi", horovod=True)
    assert status == 1
    assert "cannot import Horovod" in run.record()["reason"]
    assert "trained" not in run.log()


def test_a_script_that_exits_as_we_do_gives_no_reason(run: Run) -> None:
    assert run.finish("raise SystemExit(86)")[0] == 86
    assert "reason" not in run.record()


def test_frameworks_find_signals_free_to_be_handled(run: Run) -> None:
    script = "import signal\nfor name in 'USR1 USR2 TERM HUP'.split():\n"
    script += "    print(signal.getsignal(getattr(signal, 'SIG' + name)) == signal.SIG_DFL)\n"
    run.finish(script)
    assert run.log() == "True\n" * 4


def test_a_signal_right_after_the_fork_is_not_lost(run: Run) -> None:
    ends = []
    for _ in range(10):
        (run.path / "ranks" / "0.json").unlink(missing_ok=True)
        running = run.start("import time; time.sleep(600)")
        record = until(run.record)
        os.kill(record["pid"], signal.SIGTERM)
        running.communicate(timeout=300)
        ends.append(running.returncode)
    assert ends == [128 + signal.SIGTERM] * 10


def test_a_restart_is_marked_in_the_log(run: Run) -> None:
    run.finish("print('first', end='')")
    run.finish("print('second')", env={"LAUNCHER_RESTART_COUNT": "0"})
    run.finish("print('third')", env={"LAUNCHER_RESTART_COUNT": "2", "TZ": "UTC"})
    first, mark, third = run.log().splitlines()
    assert (first, third) == ("firstsecond", "third")
    assert mark.startswith(f"--- restart 2 on {os.uname().nodename}, 2")
    assert mark.endswith(" ---")
    run.finish("print('x', end='')")
    run.finish("", env={"LAUNCHER_RESTART_COUNT": "3"})
    assert run.log().splitlines()[3] == "x"


def test_a_log_on_a_full_disk(run: Run) -> None:
    (run.path / "logs" / "rank-0.log").symlink_to("/dev/full")
    assert run.finish("print('x' * 100000)")[0] == 0
    (run.path / "logs" / "rank-0.log").unlink()
    (run.path / "logs").rmdir()
    assert run.finish("print('to the starter')") == (0, "to the starter\n")


def test_what_a_slow_disk_takes_late_is_in_the_log_all_the_same(run: Run) -> None:
    """More than the log takes while nobody reads it; the rest waits in the rank's own pipe."""
    log = run.path / "logs" / "rank-0.log"
    os.mkfifo(log)
    running = run.start("import os\nos.write(1, b'x' * 120_000)")
    pid = until(run.record)["pid"]
    until(lambda: not Path(f"/proc/{pid}").exists())
    time.sleep(1.5)  # in which a guard must not give up
    read, ended = 0, False
    with open(os.open(log, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as late:
        while not ended:
            ended = running.poll() is not None
            while data := late.read(1 << 16):
                read += len(data)
            time.sleep(0.01)
    running.communicate(timeout=300)
    assert read == 120_000
    assert run.record()["status"] == 0


# ------------------------------------------------------------------ staging

SHOW = (
    "import os, time\nopen(f'seen-{os.getpid()}', 'w').close()\n"
    "print(os.getcwd(), os.path.abspath(__file__), flush=True)\n"
)
WAITS = SHOW + (
    "while not os.path.exists(os.environ['LAUNCHER_RUN_DIR'] + '/go'): time.sleep(0.02)\n"
)


def _packed(run: Run, script: str, tmp_path: Path) -> dict[str, str]:
    (run.path / "code" / "train.py").write_text(script)
    with tarfile.open(run.path / "code.tar", "w") as tar:
        tar.add(run.path / "code", ".")
    (tmp_path / "scratch").mkdir(exist_ok=True)
    return {"TMPDIR": str(tmp_path / "scratch")}


def test_the_code_is_staged_once_a_node_and_removed_by_the_last(run: Run, tmp_path: Path) -> None:
    env = _packed(run, WAITS, tmp_path)
    spec = {"stage": "scratch", "dist": "mpi", "procs_per_node": 3}
    ranks = [run.start("raise 1", env={**env, **rank(n, 3)}, **spec) for n in range(3)]
    until(lambda: all(run.log(number) for number in range(3)))
    parent = tmp_path / "scratch" / f"launcher-{os.getuid()}"
    staged = parent / "a run-0"
    assert [each.name for each in parent.iterdir()] == ["a run-0"]
    assert parent.stat().st_mode & 0o777 == 0o700
    born = staged.stat().st_ino
    assert len(list(staged.glob("seen-*"))) == 3  # nobody unpacked it anew under the others
    assert {run.log(number) for number in range(3)} == {f"{staged} {staged}/train.py\n"}
    os.killpg(ranks[0].pid, signal.SIGKILL)
    ranks[0].communicate()
    assert staged.stat().st_ino == born
    (run.path / "go").touch()
    for each in ranks[1:]:
        assert each.communicate(timeout=300) == ("", None)
        assert each.returncode == 0
    assert list(parent.iterdir()) == []


def test_what_a_killed_rank_left_is_removed_by_the_next(run: Run, tmp_path: Path) -> None:
    env = _packed(run, WAITS, tmp_path)
    killed = run.start("", env=env, stage="scratch")
    parent = tmp_path / "scratch" / f"launcher-{os.getuid()}"
    until(run.log)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    (parent / "a run-0" / "left").touch()
    (parent / "other-3.new").mkdir()
    (run.path / "go").touch()
    env |= {"LAUNCHER_RESTART_COUNT": "1"}
    assert run.finish("", env=env, stage="scratch") == (0, "")
    assert "/a run-1\n" not in run.log()
    assert f"{parent}/a run-1 " in run.log()
    assert list(parent.iterdir()) == []


def test_a_worker_that_is_left_does_not_keep_the_code(run: Run, tmp_path: Path) -> None:
    script = "import os, time\nif os.fork() == 0:\n    time.sleep(5); os._exit(0)\n"
    env = _packed(run, script, tmp_path)
    assert run.finish("", env=env, stage="scratch")[0] == 0
    assert list((tmp_path / "scratch" / f"launcher-{os.getuid()}").iterdir()) == []


def test_code_is_not_staged_where_others_may_change_it(run: Run, tmp_path: Path) -> None:
    env = _packed(run, "print('ran')", tmp_path)
    scratch = tmp_path / "scratch"
    parent = scratch / f"launcher-{os.getuid()}"

    def refused() -> str:
        status, out = run.finish("", env=env, stage="scratch")
        assert status == run.record()["status"] == 1
        assert run.record()["reason"] in out
        assert run.log() == ""
        return str(run.record()["reason"])

    parent.symlink_to(tmp_path)
    assert "is a link" in refused()
    parent.unlink()
    scratch.chmod(0o777)
    assert "lets every user remove" in refused()
    scratch.chmod(0o1777)
    if os.getuid() == 0:
        parent.mkdir()
        os.chown(parent, 65534, 65534)
        assert "belongs to user 65534" in refused()
        parent.rmdir()
    (run.path / "code.tar").write_bytes(b"no archive" * 100)
    assert "tar ended with status" in refused()
    assert list(parent.iterdir()) == []
    env["TMPDIR"] = str(tmp_path / "nowhere")
    assert "No such file" in refused()
