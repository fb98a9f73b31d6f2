"""The tests' own ssh hosts are plain boxes, can be broken and mended, and leave nothing behind."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import virtualenv

from tests.cluster.claim import CLAIMS
from tests.cluster.site import ROOT
from tests.cluster.ssh_host import COMPILERS
from tests.cluster.ssh_hosts import NAMES, SshHosts
from tests.cluster.sshd import PORTS
from tests.cluster.test_cluster import links, processes
from tests.cluster.user import USER, give
from tests.real.conftest import until

if TYPE_CHECKING:
    import subprocess

    from tests.cluster.ssh_host import SshHost

TIMED_OUT = "Connection timed out"
DENIED = "Permission denied (publickey)"


def said(hosts: SshHosts, host: str, line: str, **how: Any) -> str:
    done = hosts.ssh(host, line, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refused(hosts: SshHosts, host: str, *options: str, within_s: int = 30) -> str:
    """Check that ssh to a host fails; return what it says."""
    ssh = ("ssh", "-F", str(hosts.config), "-o", f"ConnectTimeout={within_s}")
    done = hosts.run((*ssh, *options, host, "true"))
    assert done.returncode == 255, done.stderr
    return done.stderr.strip()


def session(hosts: SshHosts, host: SshHost) -> subprocess.Popen[str]:
    """Start what says `go`, and ends when there is a file `on` in the user's home."""
    line = "rm -f on; echo go; until [ -e on ]; do sleep 0.05; done; echo end"
    started = hosts.start(("ssh", "-F", hosts.config, host.name, line))
    assert started.stdout
    assert started.stdout.readline() == "go\n"
    return started


def waits(host: SshHost) -> bool:
    """Return whether a session's command is running."""
    return any("until" in words for words in host.processes().values())


# ------------------------------------------------------------------ as they are


@pytest.mark.parametrize("host", NAMES)
def test_the_user_reaches_each(hosts: SshHosts, host: str) -> None:
    assert said(hosts, host, "hostname; id -un; pwd").split() == [host, USER, f"/home/{USER}"]


def test_root_here_is_that_user_there(hosts: SshHosts) -> None:
    assert said(hosts, "hostc", "id -un", user="root") == USER


def test_sshd_listens_on_another_port_too(hosts: SshHosts) -> None:
    ssh = ("ssh", "-F", hosts.config, "-p", str(PORTS[1]))
    done = hosts.run((*ssh, "hostb", "echo ${SSH_CONNECTION##* }"))
    assert (done.stdout.strip(), done.stderr) == (str(PORTS[1]), "")


def test_hostc_is_behind_hosta(hosts: SshHosts) -> None:
    assert said(hosts, "hostc", "echo ${SSH_CONNECTION%% *}") == hosts.hosta.address
    assert TIMED_OUT in refused(hosts, "hostc", "-o", "ProxyJump=none", within_s=1)


@pytest.mark.parametrize("host", NAMES)
def test_they_reach_each_other(hosts: SshHosts, host: str) -> None:
    others = [name for name in NAMES if name != host]
    line = " && ".join(f"ssh {name} hostname" for name in others)
    assert said(hosts, host, line).split() == others


def test_they_see_no_files_of_this_machine_s_nor_of_one_another(
    hosts: SshHosts, tmp_path: Path
) -> None:
    hosts.hostb.kill()
    hosts.hostb.start(blank=True)
    assert said(hosts, "hosta", "ls -A ~ /home /srv /tmp /var/tmp; touch ~/mine /tmp/mine")
    assert hosts.hosta.user_home.joinpath("mine").owner() == USER
    assert said(hosts, "hostb", "ls -A ~ /tmp /var/tmp").split() == [
        *(f"/home/{USER}:", ".ssh", "/tmp:", "/var/tmp:")
    ]
    for host in hosts.all:
        for path in ("/root/.bashrc", "/run/launcher-tests", ROOT / "tests", tmp_path):
            assert not host.root.joinpath(str(path).lstrip("/")).exists()
    assert not Path("/tmp/mine").exists()


def test_what_is_kept_they_share(installed: Path, tmp_path: Path) -> None:
    tmp_path.parent.chmod(0o711)
    source = tmp_path / "sum.c"
    source.write_text(
        "#include <mpi.h>\n#include <stdio.h>\n#include <unistd.h>\n"
        "int main(void) { int rank, sum; char host[99];\n"
        "MPI_Init(0, 0); MPI_Comm_rank(MPI_COMM_WORLD, &rank); rank++;\n"
        "MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);\n"
        'gethostname(host, 99); printf("%s:%d\\n", host, sum); return MPI_Finalize(); }\n'
    )
    give(tmp_path)
    quick = "--bind-to none --mca pml ob1 --mca btl self,sm,tcp"
    with SshHosts(keep=(installed, tmp_path)) as hosts:
        said(hosts, "hosta", f"cd {tmp_path} && {installed}/bin/mpicc sum.c -o sum")
        line = f"{installed}/bin/mpirun -H hosta:2,hostb:2 {quick} {tmp_path}/sum"
        ranks = said(hosts, "hosta", line).split()
    assert sorted(ranks) == ["hosta:10", "hosta:10", "hostb:10", "hostb:10"]


def test_they_have_a_compiler_and_no_git(hosts: SshHosts) -> None:
    look = "for each in git rsync git-shell python3 g++; do command -v $each; done; :"
    assert said(hosts, "hosta", look).split() == ["/usr/bin/python3", "/usr/bin/g++"]
    assert shutil.which("git")


def test_packages_can_be_fetched(hosts: SshHosts) -> None:
    wheel = max(Path(virtualenv.__file__).parent.glob("seed/wheels/embed/pip-*.whl"))
    there = hosts.hosta.user_home / wheel.name
    shutil.copy(wheel, there)
    there.chmod(0o644)
    said(hosts, "hosta", f"python3 {wheel.name}/pip download -q --no-deps -d got idna")
    assert said(hosts, "hosta", "ls got").startswith("idna-")


@pytest.mark.usefixtures("_root")
def test_packages_come_by_this_machine_s_proxy_if_it_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask = "import urllib.request; urllib.request.urlopen('https://there.example/')"
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        upstream.settimeout(120)
        address = f"127.0.0.1:{upstream.getsockname()[1]}"
        monkeypatch.setenv("https_proxy", f"http://name:word@{address}")
        with (
            SshHosts() as hosts,
            hosts.start(("ssh", "-F", hosts.config, "hosta", f'python3 -c "{ask}"')) as asks,
        ):
            connection, _ = upstream.accept()
            with connection:
                head = connection.recv(4096)
                connection.sendall(b"HTTP/1.1 403 Not here\r\n\r\n")
            _, error = asks.communicate(timeout=120)
    assert head.startswith(b"CONNECT there.example:443 ")
    assert b"Proxy-Authorization: Basic bmFtZTp3b3Jk\r\n" in head
    assert "403 Not here" in error


# ------------------------------------------------------------------ broken, and mended


def test_the_plug_is_pulled(hosts: SshHosts) -> None:
    host = hosts.hostb
    host.kill()
    host.start(blank=True)
    with session(hosts, host) as killed:
        kept = said(hosts, "hostb", "touch ~/kept /tmp/lost; cat /proc/sys/kernel/random/boot_id")
        assert waits(host)
        host.kill()
        assert host.processes() == {}
        killed.kill()  # nobody tells it
    assert host.user_home.joinpath("kept").exists()
    assert TIMED_OUT in refused(hosts, "hostb", within_s=1)
    host.start()
    assert said(hosts, "hosta", "ssh hostb ls -A /tmp . | grep -v ssh") == ".:\nkept\n\n/tmp:"
    assert said(hosts, "hostb", "cat /proc/sys/kernel/random/boot_id") != kept
    host.kill()
    host.start(blank=True)
    assert said(hosts, "hostb", "ls -A") == ".ssh"


def test_a_compiler_is_missing(hosts: SshHosts) -> None:
    look = "for each in cc g++ gcc-12 x86_64-linux-gnu-gcc python3; do command -v $each; done"
    hosts.hostb.kill()
    hosts.hostb.start(absent=COMPILERS)
    assert said(hosts, "hostb", look) == "/usr/bin/python3"
    assert "/usr/bin/g++" in said(hosts, "hosta", look)


def test_the_cable_is_pulled(hosts: SshHosts) -> None:
    host = hosts.hosta
    with session(hosts, host) as waiting:
        host.unplug()
        host.user_home.joinpath("on").touch()
        until(lambda: not waits(host))
        assert refused(hosts, "hosta", within_s=1)
        assert waiting.poll() is None
        host.plug()
        assert waiting.stdout
        assert waiting.stdout.read() == "end\n"
    assert waiting.returncode == 0


def test_sshd_is_restarted(hosts: SshHosts) -> None:
    host = hosts.hostb
    with session(hosts, host) as stays:
        host.restart_sshd()
        host.user_home.joinpath("on").touch()
        assert stays.wait(60) == 0
    host.user_home.joinpath("on").unlink()
    with session(hosts, host) as cut:
        host.stop_sshd(cut=True)
        assert cut.wait(60) == 255
        assert waits(host)
    assert "Connection refused" in refused(hosts, "hostb")
    host.start_sshd()
    assert said(hosts, "hostb", "hostname") == "hostb"


def test_the_host_key_changes(hosts: SshHosts) -> None:
    hosts.hosta.new_host_key()
    assert "Host key verification failed" in refused(hosts, "hosta")
    assert "Host key verification failed" in refused(hosts, "hostc")
    assert hosts.ssh("hostb", "true").returncode == 0
    hosts.hosta.old_host_key()
    assert said(hosts, "hostc", "hostname") == "hostc"


def test_a_key_is_refused(hosts: SshHosts) -> None:
    hosts.hostb.refuse()
    assert DENIED in refused(hosts, "hostb")
    assert said(hosts, "hosta", "ssh hostb hostname") == "hostb"
    hosts.hostb.accept()
    hosts.hostb.refuse("hosta")
    assert DENIED in hosts.ssh("hosta", "ssh hostb true").stderr
    assert said(hosts, "hostb", "ssh hosta hostname") == "hosta"
    hosts.hostb.accept("hosta")
    assert said(hosts, "hosta", "ssh hostb hostname") == "hostb"


def test_the_disk_is_full(hosts: SshHosts) -> None:
    hosts.hosta.fill()
    assert "No space left on device" in hosts.ssh("hosta", "echo more >more").stderr
    assert said(hosts, "hosta", "echo more >/tmp/more; cat /tmp/more") == "more"
    hosts.hosta.relieve()
    assert said(hosts, "hosta", "echo more >more; cat more") == "more"


def test_all_is_mended(hosts: SshHosts) -> None:
    a, b, c = hosts.all
    left = hosts.ssh("hosta", "setsid sleep 600 >/dev/null 2>&1 & echo")
    assert left.returncode == 0
    until(lambda: "sleep 600" in a.processes().values())
    a.new_host_key()
    a.fill()
    a.unplug()
    b.stop_sshd()
    b.refuse("hostc")
    c.kill()
    hosts.mend()
    assert [host.processes() for host in hosts.all] == [{}, {}, {}]
    assert said(hosts, "hostc", "ssh hostb 'ssh hosta \"echo end >end; cat end\"'") == "end"


# ------------------------------------------------------------------ gone


@pytest.mark.usefixtures("_root")
def test_they_go_without_a_trace() -> None:
    with SshHosts() as hosts:
        deaf = "trap '' TERM HUP; setsid sleep 600 & setsid sleep 600"
        with hosts.start(("ssh", "-F", hosts.config, "hosta", deaf)) as left:
            until(lambda: list(hosts.hosta.processes().values()).count("sleep 600") == 2)
            left.kill()
        everything = {*processes(hosts.folder), *hosts.hosta.processes()}
        assert links(hosts.claim.bridge)
    assert not [pid for pid in everything if Path(f"/proc/{pid}/cmdline").exists()]
    assert not processes(hosts.folder)
    assert not links(hosts.claim.bridge)
    assert not (CLAIMS / str(hosts.claim.number)).exists()
    assert str(hosts.folder) not in Path("/proc/self/mountinfo").read_text()
    assert not hosts.folder.exists()
