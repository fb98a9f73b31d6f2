"""`launcher doctor` on real ssh hosts says what is wrong, where and what helps, and never hangs."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.host import ENVIRONMENT
from tests.cluster.ssh_host import ABSENT, COMPILERS
from tests.cluster.user import USER
from tests.real.conftest import until
from tests.real.pools import NOBODY, Holder, free, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.ssh_host import SshHost
    from tests.cluster.ssh_hosts import SshHosts
    from tests.conftest import Project

LISTENS = " 0A "  # Source: proc_net_tcp.txt of the kernel
TIMEOUT_S = 4


@pytest.fixture
def boxes(hosts: SshHosts) -> SshHosts:
    """Hosts that never built anything."""
    for host in hosts.all:
        assert hosts.ssh(host.name, "rm -rf .launcher").returncode == 0
    return hosts


def ask(project: Project, hosts: SshHosts, *words: str) -> subprocess.CompletedProcess[str]:
    known = ("compute=ssh", f"compute.ssh_config={hosts.config}", "environment.torch=null")
    more = ("compute.hosts=[hosta,hostb]", f"compute.connect_timeout_s={TIMEOUT_S}")
    done = project.launch("doctor", *known, *more, "dist=mpi", "dist.horovod=false", *words)
    assert "Traceback" not in done.stderr
    return done


def report(project: Project, hosts: SshHosts, *words: str) -> dict[str, Any]:
    done = ask(project, hosts, "--json", *words)
    assert done.stdout, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if values["ready"] else 1)
    return values


def faults(project: Project, hosts: SshHosts, *words: str) -> dict[str, tuple[str, str]]:
    """Return what is wrong and what helps, by where it is: one fault each."""
    found = [each for each in report(project, hosts, *words)["faults"] if each["blocks"]]
    assert len({each["where"] for each in found}) == len(found), found
    return {each["where"]: (each["what"], each["fix"]) for each in found}


def listening(host: SshHost) -> int:
    files = [Path(f"/proc/{host.pid}/net/{name}") for name in ("tcp", "tcp6")]
    return sum(each.read_text().count(LISTENS) for each in files)


# ------------------------------------------------------------------ as they are


def test_a_healthy_pair(project: Project, boxes: SshHosts) -> None:
    before = [listening(host) for host in boxes.all]
    done = ask(project, boxes, "nodes=2")
    assert done.returncode == 0, done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1][:2] == ["hosta", "ready"]
    assert ["hosta", "hostb", "yes", "yes"] in lines
    assert ["hostb", "hosta", "yes"] in lines
    assert done.stdout.endswith("\nall 2 hosts are ready\n")
    values = report(project, boxes, "nodes=2")
    one = values["hosts"][0]
    assert one["workdir"] == f"/home/{USER}/.launcher"
    assert one["python"] == "/usr/bin/python3"
    assert one["cpus"] > 0
    assert one["memory_mb"] > 0
    assert one["free_mb"] > 1000
    assert abs(one["clock_s"]) < 1 + one["unsure_s"]
    until(lambda: [listening(host) for host in boxes.all] == before)
    left = boxes.ssh("hosta", "ls -A .launcher").stdout.split()
    assert set(left) == {"lib", "machines", "objects", "trees"}


def test_what_is_free(project: Project, boxes: SshHosts) -> None:
    until(lambda: all(free(host) for host in boxes.all))  # of other tests' runs
    prepare(boxes)
    slots = "compute.hosts=[{host: hosta, slots: 4, gpus: 2}, hostb]"
    with Holder(boxes.hosta) as has, Holder(boxes.hosta, NOBODY) as waits:
        assert has.ask() == {"held": 1}
        assert waits.ask() == {"ahead": 0, "ask": 1}
        first, second = (each["leased"] for each in report(project, boxes, slots)["hosts"])
        assert "  3 of 4 slots, 2 of 2 GPUs, 1 waiting  " in ask(project, boxes, slots).stdout
    assert (first["by"], first["units_free"], first["waiting"]) == ("slots", 3, 1)
    assert (second["by"], second["units_free"]) == ("cores", second["units"])


def test_one_behind_a_jump(project: Project, boxes: SshHosts) -> None:
    values = report(project, boxes, "compute.hosts=[hosta,hostb,hostc]", "nodes=3")
    assert values["ready"], values["faults"]
    assert len(values["pairs"]) == 6
    assert all(each["ranks"] == "" for each in values["pairs"])


def test_a_configuration_that_is_wrong_is_told(project: Project, boxes: SshHosts) -> None:
    for words, said in (
        (("nodes=3",), "nodes=3 needs as many hosts, and it names 2"),
        (("compute.hosts=[]",), "nodes=1 needs as many hosts"),
        (("compute.ssh_config=none",), "compute.ssh_config=none: there is no such file"),
        (("compute=local",), ""),
    ):
        done = ask(project, boxes, *words)
        assert done.returncode == 2
        assert said in done.stderr
    other = project.launch("doctor", "compute=slurm")
    assert other.returncode == 2
    assert "compute=slurm: launcher doctor takes hosts that are reached by ssh" in other.stderr


# ------------------------------------------------------------------ broken


def test_a_key_is_refused(project: Project, boxes: SshHosts) -> None:
    boxes.hostb.refuse()
    found = faults(project, boxes, "nodes=2")
    assert set(found) == {"hostb"}
    assert found["hostb"][0].startswith("cannot be reached: it refuses this user or key")
    assert "ssh-copy-id" in found["hostb"][1]


def test_a_host_key_is_another(project: Project, boxes: SshHosts) -> None:
    boxes.hosta.new_host_key()
    found = faults(project, boxes, "compute.hosts=[hosta,hostb,hostc]")
    assert set(found) == {"hosta", "hostc"}  # which is behind it
    assert "its host key is not the one that is known" in found["hosta"][0]
    assert "ssh-keygen -f" in found["hosta"][1]


@pytest.mark.parametrize("how", ["kill", "unplug"])
def test_a_host_that_is_gone_costs_no_more_than_was_said(
    project: Project, boxes: SshHosts, how: str
) -> None:
    began = time.monotonic()
    usual = report(project, boxes)  # and leaves a connection that is shared
    usual_s = time.monotonic() - began
    assert usual["ready"]
    getattr(boxes.hostb, how)()
    began = time.monotonic()
    found = faults(project, boxes)
    assert time.monotonic() - began < TIMEOUT_S + 2 * usual_s + 4
    assert set(found) == {"hostb"}
    assert "cannot be reached: it does not answer" in found["hostb"][0]


def test_a_compiler_is_missing(project: Project, boxes: SshHosts) -> None:
    boxes.hostb.kill()
    boxes.hostb.start(absent=(*ABSENT, *COMPILERS))
    assert faults(project, boxes) == {}  # it is wanted by Horovod only
    # A version of which this machine has no wheel.
    wants = ("environment.torch=torch==2.13.0", "dist.horovod=true")
    wants = (*wants, "environment.horovod=horovod==0.27.0")
    assert faults(project, boxes, *wants) == {}  # hosta builds for both
    found = faults(project, boxes, *wants, "compute.hosts=[hostb]")
    assert found == {
        "hostb": ("no C++ compiler to build Horovod", "apt-get install g++"),
    }


def test_python_is_missing(project: Project, boxes: SshHosts) -> None:
    boxes.hostb.kill()
    boxes.hostb.start(absent=(*ABSENT, "python3*"))
    found = faults(project, boxes)
    assert set(found) == {"hostb"}
    assert "there is no Python" in found["hostb"][0]
    assert found["hostb"][1] == "compute.python=/path/to/python3 names it."


def test_a_disk_is_full(project: Project, boxes: SshHosts) -> None:
    boxes.hostb.fill()
    found = faults(project, boxes)
    assert set(found) == {"hostb"}
    assert "/.launcher cannot be written: No space left on device" in found["hostb"][0]
    assert "launcher clean" in found["hostb"][1]


def test_a_folder_that_cannot_be_made_is_told(project: Project, boxes: SshHosts) -> None:
    found = faults(project, boxes, "compute.workdir=/proc/none")
    assert set(found) == {"hosta", "hostb"}
    assert found["hosta"][0].startswith("/proc/none cannot be written: ")


def test_the_first_host_must_get_to_the_others(project: Project, boxes: SshHosts) -> None:
    boxes.hostb.refuse("hosta")
    values = report(project, boxes, "nodes=2")
    assert [(each["ssh"], each["ranks"]) for each in values["pairs"]][1] == (None, "")
    (fault,) = values["faults"]
    assert fault["where"] == "hosta -> hostb"
    to = f"{USER}@{boxes.hostb.address}"
    assert f"hosta cannot ssh to hostb ({to})" in fault["what"]
    assert f"ssh-copy-id {to}" in fault["fix"]
    assert report(project, boxes, "nodes=1")["ready"]  # one host has nobody to get to


@pytest.fixture
def wall(boxes: SshHosts) -> Iterator[SshHosts]:
    """The same, but hosta never hears from hostb; this machine reaches both."""
    route = ("ip", "route", "add", "blackhole", f"{boxes.hosta.address}/32")
    subprocess.run(boxes.hostb.inside(route), env=ENVIRONMENT, check=True)
    yield boxes
    back = ("ip", "route", "del", *route[3:])
    subprocess.run(boxes.hostb.inside(back), env=ENVIRONMENT, check=True)


def test_a_firewall_is_told_as_the_pair_that_it_parts(project: Project, wall: SshHosts) -> None:
    began = time.monotonic()
    values = report(project, wall, "compute.hosts=[hosta,hostb,hostc]", "nodes=2")
    assert time.monotonic() - began < 60
    parted = {(each["source"], each["target"]) for each in values["pairs"] if each["ranks"]}
    assert parted == {("hosta", "hostb"), ("hostb", "hosta")}
    said = [each for each in values["faults"] if "ranks on hostb" in each["what"]]
    assert said[0]["where"] == "hostb -> hosta"
    assert "Let TCP pass between the hosts" in said[0]["fix"]


def test_an_address_of_another_machine_is_told(project: Project, boxes: SshHosts) -> None:
    wrong = f"compute.hosts=[hosta,{{host:hostb,address:{boxes.hosta.address}}}]"
    values = report(project, boxes, wrong, "nodes=2")
    barred = {(each["source"], each["target"]): each["ranks"] for each in values["pairs"]}
    assert "refused" in barred["hosta", "hostb"]
    assert barred["hostb", "hosta"] == ""
