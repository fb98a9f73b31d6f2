"""The line between the supervisor and the guards: real sockets, real ranks."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from launcher.control import Control
from launcher.store import RunFolder
from tests.unit.test_bootstrap import Run, rank, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLEEPS = "import time\nprint('ready', flush=True)\ntime.sleep(600)\n"
# Waits until a file `go` lies in the run's folder.
UNTIL_GO = "[time.sleep(0.02) for _ in iter(lambda: os.path.exists('../go'), True)]"
SAVES = (
    "import os, signal, sys, time\n"
    "def save(*_): print('saved', flush=True); sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, save)\n"
    "print('ready', flush=True)\ntime.sleep(600)\n"
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


@pytest.fixture
def control(run: Run) -> Iterator[Control]:
    control = Control(RunFolder(str(run.path)), several_nodes=False)
    control.start()
    yield control
    control.close()


def start(run: Run, control: Control, script: str, number: int = 0, size: int = 1) -> Any:
    env = control.environment()
    spec = {} if size == 1 else {"dist": "mpi", "procs_per_node": size}
    return run.start(script, env={**env, **(rank(number, size) if spec else {})}, **spec)


def ended(control: Control, count: int = 1) -> bool:
    return sum("ended" in each for each in control.ranks()) == count


def test_a_rank_is_heard_of_and_its_records_are_in_the_folder(run: Run, control: Control) -> None:
    running = start(run, control, "print('x'); raise SystemExit(3)")
    running.communicate(timeout=300)
    assert running.returncode == 3
    (record,) = control.ranks()
    assert (record["rank"], record["status"], record["guard"]) == (0, 3, running.pid)
    control.close(120)
    assert run.record() == record
    assert control.ranks() == [record]
    assert [each.name for each in (run.path / "ranks").iterdir()] == ["0.json"]


def test_the_first_to_end_waits_until_all_are_released(run: Run, control: Control) -> None:
    slow = SAVES.replace("def save(*_): ", f"def save(*_): {UNTIL_GO}; ")
    first = start(run, control, SAVES, 0, 2)
    until(lambda: "ready" in run.log(0))
    second = start(run, control, slow, 1, 2)
    until(lambda: "ready" in run.log(1))
    control.tell(signal.SIGTERM)
    until(lambda: ended(control))
    assert (first.poll(), second.poll()) == (None, None)
    (run.path / "go").touch()
    until(lambda: ended(control, 2))
    assert first.poll() is None
    control.release()
    for each in (first, second):
        each.communicate(timeout=300)
        assert each.returncode == 0
    assert "saved" in run.log(0)
    assert "saved" in run.log(1)


def test_without_a_stop_nobody_waits(run: Run, control: Control) -> None:
    first = start(run, control, "print(1)", 0, 2)
    first.communicate(timeout=300)
    assert time.time() - control.ranks()[0]["ended"] < 9  # a guard waits 10 s for an answer


def test_a_rank_that_starts_while_the_run_is_stopped_is_told(run: Run, control: Control) -> None:
    control.tell(signal.SIGTERM)
    running = start(run, control, SLEEPS)
    until(lambda: ended(control))
    assert control.ranks()[0]["signal"] == signal.SIGTERM
    assert running.poll() is None
    control.release()
    running.communicate(timeout=300)
    assert running.returncode == 128 + signal.SIGTERM


def test_the_end_of_the_line_lets_a_waiting_guard_go(run: Run, control: Control) -> None:
    control.tell(signal.SIGTERM)
    running = start(run, control, SLEEPS)
    until(lambda: ended(control))
    control.close()
    running.communicate(timeout=300)


def test_only_the_rank_is_told_not_its_workers(run: Run, control: Control) -> None:
    script = (
        "import signal, subprocess, sys, time\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "def save(*_):\n"
        "    time.sleep(0.2); print('worker', worker.poll()); worker.kill(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('ready', flush=True)\ntime.sleep(600)\n"
    )
    running = start(run, control, script)
    until(lambda: "ready" in run.log())
    control.tell(signal.SIGTERM)
    until(lambda: ended(control))
    control.release()
    running.communicate(timeout=300)
    assert "worker None" in run.log()


# A guard passes signals on in their order: who has had the second one has had the first, or not.
COUNTS = (
    "import signal, time\ntold, over = [], []\n"
    "signal.signal(signal.SIGUSR1, lambda *_: told.append(1))\n"
    "signal.signal(signal.SIGUSR2, lambda *_: over.append(1))\n"
    "print('ready', flush=True)\n"
    "end = time.monotonic() + 600\n"
    "while not over and time.monotonic() < end: time.sleep(0.05)\n"
    "print('told', len(told))\n"
)
DEAF = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGUSR2, lambda *_: sys.exit(0))\n"
    "print('ready', flush=True)\ntime.sleep(600)\n"
)


def test_whether_a_rank_heeds_the_warning(run: Run, control: Control) -> None:
    heeds = start(run, control, COUNTS, 0, 2)
    until(lambda: "ready" in run.log(0))
    deaf = start(run, control, DEAF, 1, 2)
    until(lambda: "ready" in run.log(1))
    control.tell(signal.SIGUSR1)
    control.tell(signal.SIGUSR2)
    for each in (heeds, deaf):
        each.communicate(timeout=300)
        assert each.returncode == 0
    assert "told 1" in run.log(0)
    assert control.ranks()[0]["heard"] is True
    assert "heard" not in control.ranks()[1]


def test_what_the_scheduler_told_the_whole_tree_is_not_told_again(
    run: Run, control: Control
) -> None:
    running = start(run, control, COUNTS)
    until(lambda: "ready" in run.log())
    os.kill(running.pid, signal.SIGSTOP)  # the guard, which hears of both at once
    os.killpg(running.pid, signal.SIGUSR1)
    control.tell(signal.SIGUSR1)
    control.tell(signal.SIGUSR2)
    os.kill(running.pid, signal.SIGCONT)
    running.communicate(timeout=300)
    assert "told 1\n" in run.log()
    assert control.ranks()[0]["heard"] is True


def test_a_rank_is_killed_and_told_of(run: Run, control: Control) -> None:
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPS
    running = start(run, control, stubborn)
    until(lambda: "ready" in run.log())
    control.tell(signal.SIGTERM)
    control.tell(signal.SIGKILL)
    until(lambda: ended(control))
    assert control.ranks()[0]["signal"] == signal.SIGKILL
    control.release()
    running.communicate(timeout=300)


def test_training_goes_on_without_the_supervisor(run: Run, control: Control) -> None:
    running = start(run, control, f"import os, time; print('ready'); {UNTIL_GO}; print('end')")
    until(lambda: run.record() and "ready" in run.log())
    control.close()
    (run.path / "go").touch()
    running.communicate(timeout=300)
    assert running.returncode == 0
    assert run.log() == "ready\nend\n"
    assert run.record()["status"] == 0
    # what the guard wrote itself counts
    assert control.ranks()[0]["status"] == 0


def test_a_guard_whose_line_breaks_writes_its_record_at_once(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        env = {"LAUNCHER_CONTROL": f"{server.getsockname()[1]}:token"}
        running = run.start(SLEEPS, env=env)
        line, _ = server.accept()
        assert line.recv(6) == b"token\n"
        line.close()
    record = until(run.record)
    assert "ended" not in record
    os.kill(record["pid"], signal.SIGKILL)
    running.communicate(timeout=300)
    assert run.record()["signal"] == signal.SIGKILL


def test_a_rank_that_is_seen_is_known_before_its_line_is_there(run: Run) -> None:
    control = Control(RunFolder(str(run.path)), several_nodes=False)
    running = start(run, control, SLEEPS)
    until(lambda: "ready" in run.log())
    assert [each["rank"] for each in control.ranks()] == [0]  # nothing was heard yet
    control.tell(signal.SIGTERM)
    control.start()
    until(lambda: ended(control))
    control.close()
    running.communicate(timeout=300)


def test_a_guard_that_is_killed_is_not_said_to_have_ended(run: Run, control: Control) -> None:
    running = start(run, control, SLEEPS)
    until(control.ranks)
    running.kill()
    running.communicate()
    control.close()
    assert "ended" not in control.ranks()[0]


def test_records_that_guards_wrote_themselves_count(run: Run) -> None:
    control = Control(RunFolder(str(run.path)), several_nodes=True)
    assert control.ranks() == []
    (run.path / "ranks" / "1.json").write_text('{"rank": 1, "ended": 2.0, "status": 0}')
    (run.path / "ranks" / "0.json").write_text('{"rank": 0, "end')
    assert [each["ended"] for each in control.ranks()] == [2.0]
    control.close()  # never started
    control.close()


def test_a_rank_finds_the_line_of_another_node(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first name is one that no resolver knows.
    monkeypatch.setenv("SLURMD_NODENAME", "no-such-node.invalid")
    control = Control(RunFolder(str(run.path)), several_nodes=True)
    assert control.environment()["LAUNCHER_CONTROL_HOST"].startswith("no-such-node.invalid,")
    control.start()
    control.start()
    env = {**control.environment(), "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
    running = run.start("raise SystemExit(5)", env=env)
    running.communicate(timeout=300)
    assert [each["status"] for each in control.ranks()] == [5]
    control.close()


def test_a_full_disk_does_not_hurt(run: Run, control: Control) -> None:
    (run.path / "ranks").rmdir()
    (run.path / "ranks").write_text("")  # nothing can be written below it
    running = start(run, control, "raise SystemExit(4)")
    running.communicate(timeout=300)
    assert [each["status"] for each in control.ranks()] == [4]
    (run.path / "ranks").unlink()
    control.close(120)
    assert run.record()["status"] == 4  # there is room again


# ------------------------------------------------------------------ strangers, and many


def connect(control: Control) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(control.variable.split(":")[0])), timeout=120)


@pytest.mark.parametrize("word", [b"guess\n", b"\n", b"{}\n", b"\xff\x00\n", b"x" * 70_000])
def test_who_does_not_say_the_token_is_cut_off(control: Control, word: bytes) -> None:
    with connect(control) as line, contextlib.suppress(ConnectionError):
        line.sendall(word)
        line.sendall(b'{"rank": 0, "ended": 1}\n')
        assert line.recv(1) == b""
    assert control.ranks() == []


@pytest.mark.parametrize("record", [b"no json", b"[]", b"{}", b'{"rank": "x"}', b"7"])
def test_what_is_no_record_ends_that_line_only(control: Control, record: bytes) -> None:
    with connect(control) as good, connect(control) as bad:
        token = control.variable.split(":")[1].encode()
        good.sendall(token + b"\n")
        bad.sendall(token + b"\n" + record + b"\n")
        with contextlib.suppress(ConnectionError):
            assert bad.recv(1) == b""
        good.sendall(b'{"rank": 1, "ended": 1}\n')
        assert good.recv(1) == b"\0"
    assert [each["rank"] for each in control.ranks()] == [1]


MANY = """
import json, os, resource, socket, sys, threading, time
from launcher.control import Control
from launcher.store import RunFolder
folder, count = sys.argv[1], int(sys.argv[2])
control = Control(RunFolder(folder), several_nodes=True)
control.start()
port, token = control.variable.split(":")
pid = os.fork()
if pid == 0:
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * count, 2 * count))
    lines = [socket.create_connection(("127.0.0.1", int(port))) for _ in range(count)]
    for rank, line in enumerate(lines):
        line.sendall(f'{token}\\n{{"rank": {rank}}}\\n'.encode())
    for line in lines:
        assert line.recv(1) == bytes([15])
    for rank, line in enumerate(lines):
        line.sendall(f'{{"rank": {rank}, "ended": 1}}\\n'.encode())
    for line in lines:
        assert line.recv(1) == bytes([0])
    os._exit(0)
def until(what):
    end = time.monotonic() + 180
    while not what():
        assert time.monotonic() < end, len(control.ranks())
        time.sleep(0.02)
until(lambda: len(control.ranks()) == count)
control.tell(15)
until(lambda: all("ended" in each for each in control.ranks()))
control.release()
assert os.waitpid(pid, 0)[1] == 0
control.close(10)
assert len(os.listdir(folder + "/ranks")) == count
"""


def test_more_ranks_than_files_may_be_open(run: Run) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = 300
    assert hard >= 4 * count
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MANY, str(run.path), str(count)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_the_token_is_new_each_time_and_the_records_are_json(run: Run, control: Control) -> None:
    other = Control(RunFolder(str(run.path)), several_nodes=False)
    assert other.variable.split(":")[1] != control.variable.split(":")[1]
    assert len(bytes.fromhex(other.variable.split(":")[1])) == 16
    other.close()
    json.dumps(control.ranks())
