"""What a new user of ssh hosts has not got right yet: each is told in words that mend it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster import sshd
from tests.cluster.host import ENVIRONMENT
from tests.cluster.user import USER, give
from tests.real.slurm_install import small_wheel
from tests.real.ssh import RANKS, SINGLE, TWO_HOSTS, SshProject

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.ssh_hosts import SshHosts
    from tests.conftest import Project
    from tests.real.terminal import Terminal


@dataclass(frozen=True)
class Fresh(SshProject):
    """A project whose commands share no connection with those before them."""

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, "XDG_RUNTIME_DIR": str(self.path)}  # too long for a socket's name


@pytest.fixture
def box(box: SshProject) -> Fresh:
    """The same, with a script."""
    fresh = Fresh(path=box.path, hosts=box.hosts, venv=box.venv)
    fresh.write("train.py", "pass\n")
    return fresh


def configured(box: SshProject, old: str, new: object) -> str:
    """Return the option that names the user's ssh_config with a line of it changed."""
    text = box.hosts.config.read_text()
    assert old in text
    path = box.write("ssh_config", text.replace(old, str(new)))
    path.chmod(0o600)
    return f"compute.ssh_config={path}"


def key(box: SshProject, name: str, phrase: str = "") -> Path:
    """Return the user's own key in a file of its own, locked by a phrase."""
    path = box.write(name, (box.hosts.home() / sshd.KEY).read_text())
    path.chmod(0o600)
    if phrase:
        words = ("ssh-keygen", "-q", "-p", "-N", phrase, "-f", path)
        assert box.hosts.run(words).returncode == 0
    return path


def helps(said: str) -> str:
    """Return the next step of what was said."""
    return said.splitlines()[-1].strip()


# ------------------------------------------------------------------ keys and users


@pytest.mark.parametrize("host", ["hosta", "hostc"])
def test_a_key_that_others_may_read(box: SshProject, host: str) -> None:
    own = key(box, "key")
    own.chmod(0o644)
    config = configured(box, f"IdentityFile {box.hosts.home() / sshd.KEY}", f"IdentityFile {own}")
    words = (f"{host} cannot be reached", f"Permissions 0644 for '{own}' are too open")
    said = box.refused(*SINGLE, f"compute.hosts=[{host}]", config, status=3, words=words)
    assert helps(said) == f"chmod 600 {own}"
    assert box.hosts.run(shlex.split(helps(said))).returncode == 0
    assert box.launch("plan", *SINGLE, f"compute.hosts=[{host}]", config).returncode == 0


def test_a_key_with_a_passphrase_and_no_agent(box: SshProject) -> None:
    own = key(box, "key", phrase="secret")
    config = configured(box, f"IdentityFile {box.hosts.home() / sshd.KEY}", f"IdentityFile {own}")
    words = ("hosta cannot be reached", f"{own} has a passphrase, and no agent holds it")
    said = box.refused(*SINGLE, config, status=3, words=words)
    assert helps(said).endswith(f"ssh-add {own}")


def test_no_key_at_all(box: SshProject) -> None:
    own = box.path / "none"
    config = configured(box, f"IdentityFile {box.hosts.home() / sshd.KEY}", f"IdentityFile {own}")
    box.refused(*SINGLE, config, status=3, words=("No key", str(own), "ssh-keygen makes one"))


def test_a_user_that_the_host_does_not_know(box: SshProject) -> None:
    hosts = "compute.hosts=[somebody@hosta]"
    words = ("somebody@hosta cannot be reached", f"somebody@{box.hosts.hosta.address}: Permission")
    said = box.refused(*SINGLE, hosts, status=3, words=words)
    assert f"ssh-copy-id -F {box.hosts.config} somebody@hosta" in helps(said)


def test_a_host_in_between_that_refuses(box: SshProject) -> None:
    box.hosts.hosta.refuse()
    words = (f"{USER}@{box.hosts.hosta.address}: Permission denied", "hostc cannot be reached")
    said = box.refused(*SINGLE, "compute.hosts=[hostc]", status=3, words=words)
    assert helps(said) == "That is hosta, on the way to it: `ssh hosta` must get in first."


# ------------------------------------------------------------------ host keys


@pytest.mark.parametrize("port", [22, 2222])
def test_the_command_that_forgets_an_old_host_key_is_the_right_one(
    box: SshProject, port: int
) -> None:
    host, own = box.hosts.hosta, box.path / "known_hosts"
    name = host.address if port == 22 else f"[{host.address}]:{port}"
    public = (host.folder / "old.pub").read_text()
    box.write("known_hosts", f"{name} {public}")
    config = configured(box, f"{box.hosts.home() / sshd.KNOWN}", own)
    hosts = f"compute.hosts=['hosta:{port}']"
    host.new_host_key()
    said = box.refused(*SINGLE, hosts, config, status=3, words=("has changed",))
    command = helps(said).partition("then: ")[2].partition(";")[0]
    assert shlex.split(command) == ["ssh-keygen", "-f", str(own), "-R", name]
    assert box.hosts.run(shlex.split(command)).returncode == 0
    said = box.refused(*SINGLE, hosts, config, status=3, words=("its host key is not known",))
    assert f"`ssh -F {box.path / 'ssh_config'} -p {port} hosta` once" in helps(said)


def test_questions_are_asked_where_somebody_can_answer(
    project: Project, hosts: SshHosts, terminal: Callable[..., Terminal]
) -> None:
    own, known = project.path / "key", project.path / "known"
    own.write_text((hosts.home() / sshd.KEY).read_text())
    own.chmod(0o600)
    subprocess.run(("ssh-keygen", "-q", "-p", "-N", "secret", "-f", own), check=True)
    text = hosts.config.read_text().replace("StrictHostKeyChecking yes", "")
    text = text.replace(str(hosts.home() / sshd.KEY), str(own))
    config = project.path / "config"
    config.write_text(text.replace(str(hosts.home() / sshd.KNOWN), str(known)))
    words = ("doctor", "compute=ssh", f"compute.ssh_config={config}", "compute.hosts=[hosta]")
    words = (*words, "environment.torch=null")
    refused = project.launch(*words)
    assert refused.returncode == 1
    assert f"Run `ssh -F {config} hosta` once" in refused.stdout
    asked = terminal(*words, XDG_RUNTIME_DIR=str(project.path))  # no connection that is shared
    asked.until("(yes/no/[fingerprint])?")
    asked.type(b"yes\n")
    asked.until("Enter passphrase for key")
    asked.type(b"secret\n")
    asked.until("1 host is ready")
    assert asked.end() == 0
    assert hosts.hosta.address in known.read_text()


# ------------------------------------------------------------------ from host to host


def test_hosts_of_one_run_that_do_not_reach_each_other(box: SshProject) -> None:
    _, b, c = box.hosts.all
    for host, other in ((b, c), (c, b)):
        route = ("ip", "route", "replace", "blackhole", f"{other.address}/32")
        subprocess.run(host.inside(route), env=ENVIRONMENT, check=True)
    try:
        both = (*TWO_HOSTS, "compute.hosts=[hostb,hostc]", "compute.connect_timeout_s=10")
        words = (f"hostb cannot ssh to hostc ({USER}@{c.address}), and mpirun starts its ranks",)
        said = box.refused(*both, status=3, words=words)
        assert "with no jump between" in helps(said)
        assert "{host: hostc, address: ...}" in helps(said)
        # Whom all of them reach may stand between this machine and one of them, and take part.
        done = box.launch(*TWO_HOSTS, "compute.hosts=[hosta,hostc]", "wait=true")
        assert done.returncode == 0, done.stderr
    finally:
        for host, other in ((b, c), (c, b)):
            route = ("ip", "route", "del", "blackhole", f"{other.address}/32")
            subprocess.run(host.inside(route), env=ENVIRONMENT, check=True)


def test_hosts_that_others_would_have_to_reach_by_ipv6(box: SshProject) -> None:
    both = (*TWO_HOSTS, "compute.hosts=[hosta,{host: hostb, address: 'fd77:1::11'}]")
    why = "nodes=2: hostb is reached at fd77:1::11, and mpirun's hosts reach each other by IPv4"
    said = box.refused(*both, status=2, words=(why,))
    mends = "{host: hostb, address: ...} in compute.hosts names its IPv4 address."
    assert helps(said) == mends
    done = box.launch("doctor", *both)
    assert done.returncode == 1
    assert f"  {mends}\n" in done.stdout, done.stdout
    assert box.launch("plan", *both, "nodes=1").returncode == 0


# ------------------------------------------------------------------ the configuration


def test_a_configuration_of_ssh_that_it_does_not_take(box: SshProject) -> None:
    config = configured(box, "Host hosta\n", "Hots hosta\n")
    file = box.path / "ssh_config"
    words = ("hosta", f"{file}: line 1: Bad configuration option: hots")
    box.refused(*SINGLE, config, status=3, words=words)
    configured(box, "Host hosta\n", "Host hosta\n  Port many\n")
    box.refused(*SINGLE, config, status=3, words=("hosta", f"{file} line 2: ", "many"))


def test_more_cores_than_a_host_has(box: SshProject) -> None:
    many = 2 * len(os.sched_getaffinity(0))
    words = (*RANKS, f"compute.cpus_per_proc={many}", "procs_per_node=2")
    said = f"compute.cpus_per_proc={many}: {2 * many} cores of hosta are asked for"
    done = box.launch("plan", *words)
    assert done.returncode == 2
    assert said in done.stderr
    box.refused(*words, status=2, words=(said, f"it has {many // 2}"))
    shared = "compute.hosts=[{host: hosta, slots: 2}]"
    assert box.launch("plan", *words, shared).returncode == 0


def test_an_environment_is_not_built_inside_a_job(box: SshProject) -> None:
    words = ("environment.build_on=job", "environment.build_on=submit")
    box.refused(*SINGLE, "environment.build_on=job", status=2, words=words)


def test_two_names_of_one_machine(box: SshProject) -> None:
    hosts = "compute.hosts=[hosta,'hosta:2222']"
    words = ("compute.hosts: hosta and hosta:2222 are one machine",)
    said = box.refused(*TWO_HOSTS, hosts, status=2, words=words)
    assert helps(said) == "procs_per_node=2 starts two ranks on each host."


def test_environments_are_built_ahead_where_they_are_used(box: SshProject) -> None:
    small_wheel(box.path / "index", "small")
    name = "environment.pip_packages=[small]"
    for host in box.hosts.all[:2]:
        index = host.user_home / "index"
        shutil.rmtree(index, ignore_errors=True)
        give(Path(shutil.copytree(box.path / "index", index)))
    index = f"environment.pip_args=[--no-index,--find-links,/home/{USER}/index]"
    shutil.rmtree(box.path / "index")
    hosts = ("compute=ssh", "compute.hosts=[hosta,hostb]", "environment.torch=null", name, index)
    done = box.launch("env", "build", *hosts)
    assert done.returncode == 0, done.stderr
    kind, key, python = done.stdout.split()
    assert python == f"/home/{USER}/.launcher/cache/envs/{key}/bin/python"
    assert kind == "venv"
    for host in box.hosts.all[:2]:
        assert f"{host.name}: installing small" in done.stderr
    box.write("train.py", "import small\nprint(small.WORD)\n")
    done = box.launch(*SINGLE, name, index, "wait=true")
    assert done.stdout == "here\n", done.stderr
    assert "installing" not in done.stderr


@pytest.mark.parametrize(
    ("workdir", "why"),
    [
        ("/root/x", "Permission denied"),
        ("/usr", "Permission denied"),
        ("~/taken", "File exists"),
        ("~/taken/x", "Not a directory"),
    ],
)
def test_a_workdir_that_is_none(box: SshProject, workdir: str, why: str) -> None:
    for host in box.hosts.all[:2]:
        (host.user_home / "taken").touch()
        give(host.user_home / "taken")
    path = workdir.replace("~", f"/home/{USER}")
    words = (f"compute.workdir={workdir}: {path} is no folder that {USER} may write: {why}",)
    said = box.refused(*TWO_HOSTS, f"compute.workdir={workdir}", status=3, words=("hosta", *words))
    assert helps(said) == "compute.workdir=/path names another one, the same on all hosts."
