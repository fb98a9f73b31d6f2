"""Horovod's wheels between machines: through real agents, on this machine in place of hosts."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from launcher import process
from launcher.environment import Environment, wheel
from launcher.environment.locate import locate
from launcher.ssh import build, connection
from launcher.ssh.agent.environments import asked
from launcher.ssh.agent.serve import kind
from launcher.ssh.bundle import bundle
from launcher.ssh.channel import Channel
from launcher.ssh.travel import bring

if TYPE_CHECKING:
    from collections.abc import Iterator

WANTED = Environment(provision="venv")
ASKS = asked(WANTED, horovod=True, mpi=True)
KEY, OTHER = "0123456789abcdef", "fedcba9876543210"
BYTES = os.urandom(5 << 20)  # more than one answer brings


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def agent(name: str, workdir: Path) -> Channel:
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - the channel closes it
    words = (sys.executable, "-c", connection._BOOT)
    channel = Channel(name, process.connect(words, errors=errors, prompts=False), errors)
    channel.facts = channel.ask("hello", workdir=str(workdir), paths=[])[0]
    tree = bundle()
    bring(channel, tree)
    channel.ask("load", name=tree.name)
    return channel


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Channel, Channel]]:
    both = agent("hosta", tmp_path / "hosta"), agent("hostb", tmp_path / "hostb")
    yield both
    for each in both:
        each.close()


def a_wheel(cache: Path, key: str, **other: Any) -> Path:
    """Return a wheel of what this machine builds, as far as that is known before torch is there."""
    recipe = locate(WANTED, horovod=True, mpi=True).recipe
    assert recipe is not None
    folder = cache / "wheels" / key
    folder.mkdir(parents=True)
    (folder / "horovod.whl").write_bytes(BYTES)
    facts = {**wheel._known_before(recipe), "torch": {"version": "2.13.0"}, **other}
    (folder / "wheel.json").write_text(json.dumps({"facts": facts}))
    return folder


def there(host: Channel, key: str = KEY) -> Path:
    return Path(host.facts["workdir"]) / "cache" / "wheels" / key


def test_this_machines_wheel_goes_to_all_hosts(cache: Path, hosts: tuple[Channel, Channel]) -> None:
    own = a_wheel(cache, KEY)
    a_wheel(cache, OTHER, platform="another")
    said: list[str] = []
    assert build._give([build._Here(), *hosts], hosts, ASKS, said.append) == []
    assert sorted(said) == [f"{host.name}: Horovod's wheel: from this machine" for host in hosts]
    for host in hosts:
        assert (there(host) / "horovod.whl").read_bytes() == BYTES
        assert (there(host) / "wheel.json").read_text() == (own / "wheel.json").read_text()
        assert not there(host, OTHER).exists()
    said.clear()
    assert build._give([build._Here(), *hosts], hosts, ASKS, said.append) == []
    assert said == []


def test_a_hosts_wheel_goes_to_the_others(hosts: tuple[Channel, Channel]) -> None:
    a, b = hosts
    assert build._give([build._Here(), *hosts], hosts, ASKS, pytest.fail) == [a, b]
    a_wheel(there(a).parents[1], KEY)
    said: list[str] = []
    assert build._give([build._Here(), *hosts], hosts, ASKS, said.append) == []
    assert said == ["hostb: Horovod's wheel: from hosta"]
    assert (there(b) / "horovod.whl").read_bytes() == BYTES


def test_a_wheel_that_comes_twice_is_kept_once(hosts: tuple[Channel, Channel]) -> None:
    host, _ = hosts
    files = [("a.whl", 3), ("wheel.json", 2)]
    assert host.ask("adopt", b"abc{}", key=KEY, files=files)[0] is True
    assert host.ask("adopt", b"xyz{}", key=KEY, files=files)[0] is False
    assert (there(host) / "a.whl").read_bytes() == b"abc"
    assert [each.name for each in there(host).parent.iterdir()] == [KEY]


def test_what_was_compiled_elsewhere_must_fit(hosts: tuple[Channel, Channel]) -> None:
    assert {host.facts["kind"] for host in hosts} == {kind()}
    assert kind().startswith(os.uname().machine)
    assert build._compiles(hosts[0])
