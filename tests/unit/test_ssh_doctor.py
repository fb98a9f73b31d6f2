"""What is wrong with hosts, given what they told; and what a host tells of itself."""

from __future__ import annotations

import base64
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from launcher.errors import SubmitError
from launcher.ssh.agent import checkup
from launcher.ssh.connection import within
from launcher.ssh.doctor import Pair, Report
from launcher.ssh.doctor_text import report_text
from launcher.ssh.verdict import Fault, Needs, Told, builds, differences, faults_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEASED = {"by": "slots", "units": 4, "units_free": 1, "gpus": 2, "gpus_free": 0, "waiting": 3}
BUILT = {"ready": True, "kind": "venv", "key": "ab12"}
KNOWN: dict[str, Any] = {
    "boot": "b1",
    "hostname": "box1",
    "workdir": "/home/me/.launcher",
    "python": "/usr/bin/python3",
    "version": "3.11.2",
    "minor": "3.11",
    "kind": "x86_64 glibc 2.36",
    "unwritable": "",
    "noexec": False,
    "machine": "box1.b1",
    "since": 0,
    "machines": {},
    "free_mb": 50_000,
    "memory_mb": 32_768,
    "cpus": 8,
    "gpus": 0,
    "lost": [],
    "clock_s": 0.04,
    "unsure_s": 0.01,
    "compiler": "/usr/bin/g++",
    "make": "/usr/bin/make",
    "header": "/usr/include/Python.h",
    "packages": {"index": "https://pypi.org/simple", "error": ""},
    "environment": {"ready": False, "kind": "venv", "key": "ab12", "wheel": False},
    "leased": {},
}
UNREACHED = Told(name="hostb", fault=Fault(where="hostb", what="cannot be reached: x", fix="Mend."))


def told(name: str = "hosta", **values: Any) -> Told:
    return Told(name=name, known={**KNOWN, **values})


@pytest.mark.parametrize(
    ("values", "needs", "what", "fix"),
    [
        ({"unwritable": "Read-only file system"}, {}, "cannot be written: Read-only", "workdir="),
        (
            {"workdir": "/home/Ada B/.launcher"},
            {},
            "compute.workdir: '/home/Ada B/.launcher' is no path that mpirun can be told of",
            "compute.workdir=/path names another. Letters, digits and",
        ),
        ({"python": "/opt/my python3"}, {"nodes": 2}, "'/opt/my python3' is no", "compute.python="),
        ({"free_mb": 255}, {}, "has 255 MB of room left", "launcher clean"),
        ({"lost": ["/data/x"]}, {}, "data: /data/x is not there", "where it lies"),
        ({"gpus": 1}, {"gpus": 2}, "2 GPUs are asked for, and it has 1", "gpus_per_proc=0"),
        ({"make": ""}, {"horovod": True}, "no make to build Horovod", "apt-get install make"),
        (
            {"compiler": "", "header": ""},
            {"horovod": True},
            "no C++ compiler, no Python.h to build Horovod",
            "apt-get install g++ python3-dev",
        ),
        (
            {"packages": {"index": "https://pypi.org/simple", "error": "timed out"}},
            {},
            "packages: https://pypi.org/simple does not answer pip: timed out",
            "pip.conf",
        ),
        (
            {
                "noexec": True,
                "environment": {**BUILT, "path": "/home/me/.launcher/cache"},
            },
            {},
            "/home/me/.launcher is mounted noexec: no program runs there",
            "compute.workdir=",
        ),
        ({"environment": {"error": "no such interpreter", "hint": "H."}}, {}, "no such", "H."),
    ],
)
def test_each_fault_has_its_fix(
    values: dict[str, Any], needs: dict[str, Any], what: str, fix: str
) -> None:
    (fault,) = faults_of(told(**values), Needs(**needs))
    assert (fault.where, fault.blocks) == ("hosta", True)
    assert what in fault.what
    assert fix in fault.fix


def test_what_is_there_is_no_fault() -> None:
    assert faults_of(told(), Needs(horovod=True)) == []
    assert faults_of(told(python="/opt/my python3"), Needs()) == []
    nothing: dict[str, Any] = {"compiler": "", "packages": {"index": "x", "error": "no"}}
    built = told(**nothing, environment=BUILT)
    assert faults_of(built, Needs(horovod=True)) == []
    wheel = told(compiler="", environment={**KNOWN["environment"], "wheel": True})
    assert faults_of(wheel, Needs(horovod=True)) == []
    assert builds(wheel)
    assert builds(told())
    assert not builds(told(make=""))
    assert faults_of(told(compiler=""), Needs(horovod=True), {KNOWN["kind"]}) == []
    assert faults_of(told(compiler=""), Needs()) == []


def test_what_only_slows_or_misleads_is_a_warning() -> None:
    for values, needs, what in (
        ({"clock_s": -7.0}, Needs(), "its clock is -7.0 s off ours"),
        ({"cpus": 2}, Needs(ranks=4), "4 ranks share 2 cores"),
    ):
        (fault,) = faults_of(told(**values), needs)
        assert (fault.what, fault.blocks) == (what, False)
    assert faults_of(told(clock_s=3.0, unsure_s=1.5), Needs()) == []  # the way was slow


def test_hosts_of_one_run_are_alike() -> None:
    other = told("hostc", hostname="box2", minor="3.12", workdir="/home/us/.launcher")
    both = (UNREACHED, told(), other)
    found = differences(both, Needs(nodes=2))
    assert [each.what for each in found] == [
        "compute.workdir is /home/us/.launcher, on hosta /home/me/.launcher",
        "Python's version is 3.12, on hosta 3.11",
    ]
    assert {(each.where, each.blocks) for each in found} == {("hostc", True)}
    assert not any(each.blocks for each in differences(both, Needs(nodes=1)))


def test_a_machine_that_is_named_twice() -> None:
    (found,) = differences((told(), told("hostb", hostname="box2"), told("again")), Needs(nodes=2))
    assert (found.where, found.what) == ("again", "it is the same machine as hosta")
    assert found.blocks


def test_hosts_that_share_a_folder() -> None:
    one = told("hosta", machine="box1.b1", since=7, machines={"box1.b1": 7})
    both = {"box1.b1": 7, "box2.b2": 8}
    other = told("hostb", hostname="box2", machine="box2.b2", since=8, machines=both)
    for pair in ((one, other), (other, one)):
        (found,) = differences(pair, Needs(nodes=1))
        assert found.blocks
        assert found.what.startswith("it shares /home/me/.launcher with host")
    later = told("hosta", machine="box1.b1", since=9, machines={"box1.b1": 9, "box2.b2": 7})
    assert differences((later, other), Needs(nodes=1)) == []  # one's disk is a copy of the other's


def test_a_report_for_a_person() -> None:
    barred = Fault(where="hosta -> hostc", what="ranks do not", fix="Let TCP pass.")
    warning = Fault(where="hostc", what="its clock is off", fix="Set it.", blocks=False)
    assert UNREACHED.fault
    report = Report(
        hosts=(told(), UNREACHED, told("hostc", gpus=2, clock_s=3.04, leased=LEASED)),
        pairs=(
            Pair(source="hosta", target="hostc", ssh="", ranks="timed out"),
            Pair(source="hostc", target="hosta", ssh=None, ranks=""),
        ),
        faults=(UNREACHED.fault, warning, barred),
    )
    text = report_text(report)
    rows = [line.split() for line in text.splitlines()]
    assert rows[1][:3] == ["hosta", "1", "fault"]
    assert rows[2] == ["hostb", "not", "reached"]
    assert rows[3][:2] == ["hostc", "ready"]
    assert "+3.0s" in rows[3]
    assert "  1 of 4 slots, 0 of 2 GPUs, 3 waiting  " in text
    assert rows[6:8] == [["hosta", "hostc", "yes", "no"], ["hostc", "hosta", "yes"]]
    assert "\nhostb: cannot be reached: x\n  Mend.\n" in text
    assert "\nwarning: hostc: its clock is off\n  Set it.\n" in text
    assert text.endswith("\n1 of 3 hosts are ready\n")
    assert not report.healthy
    assert [each["ready"] for each in report.to_json()["hosts"]] == [False, False, True]
    alone = Report(hosts=(told(),), pairs=(), faults=())
    assert report_text(alone).endswith("\n1 host is ready\n")


# ------------------------------------------------------------------ on the host


class Index(BaseHTTPRequestHandler):
    asked: tuple[str, str | None] = ("", None)

    def do_GET(self) -> None:
        Index.asked = self.path, self.headers["Authorization"]
        self.send_response(200 if self.path.startswith("/good/") else 404)
        self.end_headers()

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a server, and no settings of pip's but the machine's own file."""
    for name in ("PIP_INDEX_URL", "PIP_NO_INDEX", "PIP_CONFIG_FILE", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_packages_are_asked_for_where_pip_asks(
    index: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = checkup._packages(["--index-url", f"http://me:p%40ss@{index}/good"], 3)
    assert given == {"index": f"http://{index}/good", "error": ""}
    login = base64.b64encode(b"me:p@ss").decode()
    assert Index.asked == ("/good/pip/", f"Basic {login}")
    assert "404" in checkup._packages([f"--index-url=http://{index}/bad"], 3)["error"]
    file = tmp_path / ".config" / "pip" / "pip.conf"
    file.parent.mkdir(parents=True)
    file.write_text(f"[global]\nindex-url = http://{index}/good/\n")
    assert checkup._packages([], 3) == {"index": f"http://{index}/good/", "error": ""}
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{index}/good/env")
    assert checkup._packages([], 3)["index"] == f"http://{index}/good/env"
    assert Index.asked[0] == "/good/env/pip/"


def test_an_index_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        began = time.monotonic()
        found = checkup._packages(["--index-url", url], 0.3)
        assert time.monotonic() - began < 5
    assert found["index"] == url
    assert found["error"]


def test_who_answers_is_known_by_its_token() -> None:
    port = checkup.listen({"token": "right"}, b"")
    to = [["127.0.0.1", port, "right"], ["127.0.0.1", port, "other"]]
    assert checkup.connect({"to": to, "timeout_s": 2}, b"") == [
        *("", "another machine answers at 127.0.0.1")
    ]
    assert checkup.hush({}, b"") == 1
    (said,) = checkup.connect({"to": to[:1], "timeout_s": 2}, b"")
    assert "refused" in said


def test_a_folder_is_written_to_and_left_as_it_was(tmp_path: Path) -> None:
    assert checkup._unwritable(str(tmp_path)) == ""
    assert list(tmp_path.iterdir()) == []
    assert checkup._unwritable("/proc/none") == "No such file or directory"


def test_who_takes_too_long_is_left_alone() -> None:
    late, go = SubmitError("late"), threading.Event()
    with pytest.raises(SubmitError) as caught:
        within(0.05, go.wait, late)
    go.set()
    assert caught.value is late
    assert within(5, lambda: 7, late) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0, late)
