"""`launcher clean` on real ssh hosts, of what runs share: data, and what waits or is on its way."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.user import USER, give
from tests.real.conftest import log, state, until
from tests.real.held import held
from tests.real.pools import ahead
from tests.real.ssh import SINGLE, SshProject

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.cluster.ssh_host import SshHost

MB = 1 << 20
ENVIRONMENT = f"/home/{USER}/.launcher/cache/envs/00000000000000aa"
DATA = ("data.d.path=sets", "data.d.upload=true", "script_params.d=${data:d}")
SHOW = (
    "import os, sys\n"
    "for name in sorted(os.listdir(sys.argv[2])):\n"
    "    print(name, len(open(sys.argv[2] + '/' + name, 'rb').read()), flush=True)\n"
)
WAITS = (
    "import os, time\nprint('ready', flush=True)\n"
    "while not os.path.exists(os.path.expanduser('~/open')): time.sleep(0.05)\n"
)
SLOTS = "compute.hosts=[{host: hosta, slots: 1}, {host: hostb, slots: 1}]"


@pytest.fixture
def blank(box: SshProject) -> SshProject:
    """A project, and hosts of whose disks nothing of the launcher's is left."""
    for host in box.hosts.all:
        there(box, host, "chmod -R u+w .launcher 2>/dev/null; rm -rf .launcher open")
    box.write(".gitignore", "sets\n")
    return box


def there(box: SshProject, host: SshHost, line: str) -> str:
    done = box.hosts.ssh(host.name, line)
    assert done.returncode == 0, done.stderr
    return done.stdout


def clean(box: SshProject, *options: str, hosts: str = "hosta") -> subprocess.CompletedProcess[str]:
    done = box.launch("clean", "compute=ssh", f"compute.hosts=[{hosts}]", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def items(box: SshProject, *options: str, hosts: str = "hosta") -> dict[str, dict[str, Any]]:
    """Return what is left on the first of the hosts, by path."""
    told = json.loads(clean(box, *options, "--json", hosts=hosts).stdout)
    return {item["path"]: item for item in told["hosts"][0]["items"]}


def grow_old(box: SshProject, host: SshHost, *paths: str) -> None:
    """Have all that lies there look as if it was used last forty days ago."""
    for path in paths or (".",):
        there(box, host, f"find .launcher/{path} -exec touch -h -d '40 days ago' {{}} +")


def noise(path: Path, size: int) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(os.urandom(size))
    give(path.parent)


def used(box: SshProject, host: SshHost) -> int:
    """Return the bytes that data take on a host; what has two names counts once."""
    return int(there(box, host, "du -s -B1 .launcher/data").split()[0])


def data(box: SshProject, *options: str) -> dict[str, dict[str, Any]]:
    return {path: each for path, each in items(box, *options).items() if each["kind"] == "data"}


def submitted(box: SshProject, *words: str) -> str:
    """Return the output of a run that has ended, with its pool, which had it in use."""
    done = box.launch(*SINGLE, *words, "wait=true")
    assert done.returncode == 0, done.stderr
    assert box.left() == []
    return done.stdout


# ------------------------------------------------------------------ data


def test_old_data_go_with_the_last_run_that_names_them(blank: SshProject) -> None:
    box, host = blank, blank.hosts.hosta
    box.write("train.py", SHOW)
    for name, size in (("both", 3 * MB), ("changes", MB)):
        noise(box.path / "sets" / name, size)
    said = submitted(box, *DATA)
    first = (box.there(box.run) / "data.trees").read_text().strip()
    grow_old(box, host)
    noise(box.path / "sets" / "changes", 2 * MB)
    run = box.runs[0]
    submitted(box, *DATA)
    second = (box.there(box.runs[-1]) / "data.trees").read_text().strip()
    there(box, host, f"touch .launcher/runs/{run.name}/events.jsonl")
    assert data(box)[f"data/{first}"]["stays"] == "a run that stays needs it"
    grow_old(box, host, f"runs/{run.name}")
    seen = data(box)
    assert seen[f"data/{first}"]["stays"] == ""
    assert seen[f"data/{second}"]["stays"] == "a run that stays needs it"
    assert seen[f"data/{first}"]["state"] == "sets: 2 files"
    assert MB <= seen[f"data/{first}"]["size"] < 1.2 * MB  # the other file is the second's too
    assert 5 * MB <= seen[f"data/{second}"]["size"] < 5.2 * MB
    before = used(box, host)
    done = clean(box, "--yes")
    assert f"hosta: removed data {first[:20]}, " in done.stdout
    assert abs(before - used(box, host) - seen[f"data/{first}"]["size"]) < 8192
    top = host.user_home / ".launcher"
    assert not [*top.glob(f"data/{first}"), *top.glob(f"data/*/{first}"), *top.glob("trash.*")]
    assert list(data(box)) == [f"data/{second}"]
    assert submitted(box, *DATA) == f"both {3 * MB}\nchanges {2 * MB}\n"
    noise(box.path / "sets" / "changes", MB)
    assert submitted(box, *DATA) == said  # what is gone travels again


def test_data_that_were_never_whole_go_when_old(blank: SshProject) -> None:
    box, host = blank, blank.hosts.hosta
    box.write("train.py", SHOW)
    noise(box.path / "sets" / "large", 300 * MB)
    noise(box.path / "sets" / "z", 1000)
    parts = host.user_home / ".launcher" / "data" / "parts"
    with held(box, "hosta data_pour 15", *SINGLE, *DATA, "wait=true") as (running, _):
        until(lambda: sum(each.stat().st_size for each in parts.glob("*")) > 20 * MB)
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    until(lambda: not any("python3" in each for each in host.processes().values()))
    assert data(box, "--older-than=0s")["data/files"]["stays"] == "used in the last hour"
    grow_old(box, host)
    (half,) = data(box).values()
    assert (half["path"], half["stays"]) == ("data/parts", "")
    assert half["state"] in ("half sent: 1 file", "half sent: 2 files")  # whichever is sent first
    assert half["size"] > 20 * MB
    done = clean(box, "--yes")
    assert "hosta: removed data, " in done.stdout
    assert used(box, host) < MB
    assert submitted(box, *DATA) == f"large {300 * MB}\nz 1000\n"


def test_a_file_of_another_name_of_data_is_not_ours(blank: SshProject) -> None:
    there(blank, blank.hosts.hosta, "mkdir -p .launcher/data/mine && touch .launcher/data/mine/own")
    grow_old(blank, blank.hosts.hosta)
    assert data(blank) == {}
    clean(blank, "--yes")
    assert there(blank, blank.hosts.hosta, "ls .launcher/data/mine") == "own\n"


# ------------------------------------------------------------------ what is on its way


BETWEEN = """\
import sys, launcher
from launcher.ssh.channel import Channel
from launcher.ssh.clean import Rules, clear, survey
from launcher.ssh.connection import Target
from launcher.store import Store

kind, config, *words = sys.argv[1:]
ways = [Target(name=each, config=config.partition('=')[2]) for each in ('hosta', 'hostb')]
rules = Rules(older_s=0.0, store=Store('runs'), unfetched=True)
ask, cleaning, asked, gone = Channel.ask, [], [], []

def cleaned(channel, request, *words, **how):
    if not cleaning:
        cleaning.append(True)
        asked.append(request)
        for each in clear(ways, survey(ways, rules)):
            gone.extend(each.gone)
        cleaning.clear()
    return ask(channel, request, *words, **how)

Channel.ask = cleaned
launched = getattr(launcher, kind)(config, *words)
print(launched.id)
print(*asked)
print(*gone)
"""


@pytest.mark.parametrize("kind", ["submit", "submit_sweep"])
def test_a_clean_between_any_two_requests_of_a_submit(blank: SshProject, kind: str) -> None:
    box = blank
    words = [*SINGLE, SLOTS, *DATA, "environment.provision=venv"]
    box.write("train.py", SHOW)
    for number in range(20):
        noise(box.path / "sets" / f"{number:02}", 20_000)
    submitted(box, *words)
    submitted(box, *words, "compute.hosts=[hostb]")
    known = box.runs
    for host in box.hosts.all[:2]:
        grow_old(box, host)
    noise(box.path / "sets" / "00", 20_000)
    box.write("train.py", WAITS + SHOW)  # what has ended is removed, too
    box.write("between.py", BETWEEN)
    words += ["script_params.lr=1,2"] if kind == "submit_sweep" else []
    argv = ("python", "between.py", kind, box.config, *words)
    done = box.hosts.run(argv, cwd=box.path, env=box.env, timeout_s=300)
    assert done.returncode == 0, done.stderr
    launched, *told = done.stdout.splitlines()
    asked, gone = (line.split() for line in told)
    assert {"trees", "data_known", "data_lacks", "data_make", "pool", "go"} <= {*asked}
    assert {*(f"runs/{run.name}" for run in known), "objects"} <= {*gone}
    for what in ("data/", "cache/envs/"):
        assert sum(each.startswith(what) for each in gone) == 2
    for host in box.hosts.all[:2]:
        (host.user_home / "open").touch()
    assert box.launch("wait", launched).returncode == 0
    said = "ready\n" + "".join(f"{number:02} 20000\n" for number in range(20))
    assert {log(run) for run in box.runs if run not in known} == {said}


def test_what_a_submit_was_about_to_use_is_gone(blank: SshProject) -> None:
    """A clean comes between two requests of a submit: the code and the data travel whole."""
    box = blank
    box.write("one", "1")
    box.write("two", "2")
    box.write(
        "gone.py",
        "import subprocess, sys\n"
        "from launcher.data import Upload\n"
        "from launcher.ssh import carry\n"
        "from launcher.ssh.agent.objects import name_of, tree_of\n"
        "from launcher.ssh.connection import Target\n"
        "from launcher.ssh.ready import ready\n"
        "from launcher.ssh.travel import Tree, bring\n"
        "config = sys.argv[1].partition('=')[2]\n"
        "channel = ready(Target(name='hosta', config=config))\n"
        "def remove(path):\n"
        "    words = ('ssh', '-F', config, 'hosta', f'rm .launcher/{path}')\n"
        "    subprocess.run(words, check=True)\n"
        "def tree(texts, base):\n"
        "    found = {name_of(text): text for text in texts.values()}\n"
        "    def read(names):\n"
        "        yield from (found[each] for each in names)\n"
        "    lines = (b'100644 %b %b' % (name_of(text).encode(), path)\n"
        "             for path, text in texts.items())\n"
        "    text = tree_of(lines)\n"
        "    return Tree(name=name_of(text), text=text, read=read, base=base)\n"
        "first = tree({b'a': b'1', b'b': b'2'}, lambda names: ('', b''))\n"
        "bring(channel, first)\n"
        "def base(names):\n"
        "    remove(f'trees/{first.name}')\n"
        "    return first.name, first.text\n"
        "second = tree({b'a': b'1', b'c': b'3'}, base)\n"
        "bring(channel, second)\n"
        "def send(path):\n"
        "    found = carry.looked({'d': Upload(path=path)}, [channel], print)\n"
        "    carry.carry([channel], found, print)\n"
        "    return found[0].digest\n"
        "before = send(sys.argv[2])\n"
        "known = carry.remembered\n"
        "def remembered(latest):\n"  # once the host has told what it has
        "    remove(f'data/trees/{before}')\n"
        "    return known(latest)\n"
        "carry.remembered = remembered\n"
        "after = send(sys.argv[3])\n"
        "told = channel.ask('data_known', digest=after, use=False, extent=False)[0]\n"
        "assert told['here'], told\n"
        "assert second.name in channel.ask('trees', name='')[0]\n",
    )
    box.python("gone.py", box.config, str(box.path / "one"), str(box.path / "two"))


def test_what_waits_finds_all_that_it_needs_on_each_host(blank: SshProject) -> None:
    box, (first, other) = blank, blank.hosts.all[:2]
    box.write("train.py", WAITS)
    occupied = box.launch("-m", *SINGLE, SLOTS, "script_params.lr=1,2")
    assert occupied.returncode == 0, occupied.stderr
    until(lambda: all("ready" in _said(box, run) for run in box.runs))
    busy = box.runs
    box.write("train.py", SHOW + "print(os.uname().nodename, sys.prefix, flush=True)\n")
    noise(box.path / "sets" / "one", 1000)
    for host in (first, other):
        made = f"python3 -m venv --without-pip {ENVIRONMENT} && touch {ENVIRONMENT}"
        there(box, host, f"{made}/environment.json")  # as one that was built
        there(box, host, f"cp -r {ENVIRONMENT} {ENVIRONMENT[:-1]}b")
    python = ("environment.provision=current", f"environment.python={ENVIRONMENT}/bin/python")
    done = box.launch("-m", *SINGLE, SLOTS, *python, *DATA, "script_params.lr=1,2")
    assert done.returncode == 0, done.stderr
    single = box.submit(*SINGLE, SLOTS, *python, *DATA, "script_params.lr=3")
    waiting = [run for run in box.runs if run not in busy]

    until(lambda: ahead(other) == 2)  # what they need there is in use before they queue
    for host in (first, other):
        grow_old(box, host)
    words = ("--older-than=0s", "--force-unfetched")
    digest = (box.there(waiting[0]) / "data.trees").read_text().strip()
    key = ENVIRONMENT.rpartition("/.launcher/")[2]
    alone = items(box, *words, hosts="hostb")
    assert [alone[each]["stays"] for each in (key, f"data/{digest}")] == ["in use"] * 2
    assert "in use" in alone["trees"]["stays"]
    assert alone[f"{key[:-1]}b"]["stays"] == ""
    both = items(box, *words, hosts="hosta,hostb")
    stay = {run: both[f"runs/{run.name}"]["stays"] for run in waiting}
    assert stay.pop(single) == "in use"  # its pool is its own
    assert {*stay.values()} == {"may be about to start"}
    assert {both[f"runs/{run.name}"]["state"] for run in waiting} <= {"PENDING", "SUBMITTING"}
    assert both[key]["stays"] == both[f"data/{digest}"]["stays"] == "in use"
    clean(box, *words, "--yes", hosts="hostb")
    clean(box, *words, "--yes", hosts="hosta,hostb")
    (other.user_home / "open").touch()
    assert box.launch("wait", done.stdout.strip()).returncode == 0
    assert box.launch("wait", single.name).returncode == 0
    told = f"one 1000\nhostb {ENVIRONMENT}\n"
    assert [log(run) for run in waiting] == [told] * 3
    (first.user_home / "open").touch()
    assert box.launch("wait", occupied.stdout.strip()).returncode == 0


def _said(box: SshProject, run: Path) -> str:
    return "".join(box.said(run, host=host) for host in box.hosts.all)


# ------------------------------------------------------------------ what is gone


def test_a_run_whose_host_was_started_again_is_lost(blank: SshProject) -> None:
    box, host = blank, blank.hosts.hosta
    box.write("train.py", WAITS)
    run = box.submit(*SINGLE)
    box.begins(run)
    host.kill()
    host.start()
    seen = items(box, "--older-than=0s", "--force-unfetched")[f"runs/{run.name}"]
    assert (seen["state"], seen["stays"]) == ("LOST", "")
    shown = clean(box, "--older-than=0s", "--force-unfetched").stdout
    assert [each for each in shown.splitlines() if run.name in each and "LOST" in each]
    assert state(run) == "RUNNING"  # nobody has asked for it yet
    done = clean(box, "--older-than=0s", "--force-unfetched", "--yes")
    assert f"hosta: removed run {run.name}, " in done.stdout


@pytest.mark.parametrize("beside", ["log", "work"])
def test_a_build_that_goes_on_stays(blank: SshProject, beside: str) -> None:
    """Who builds has the lock of the log, by whatever process of the build that lives."""
    box, host = blank, blank.hosts.hosta
    there(box, host, f"mkdir -p {ENVIRONMENT}.work && echo a >{ENVIRONMENT}.log")
    there(box, host, f"setsid flock -x {ENVIRONMENT}.log sleep 300 >/dev/null 2>&1 </dev/null &")
    until(lambda: "sleep 300" in host.processes().values())  # whose starter has the lock
    grow_old(box, host)
    key = ENVIRONMENT.rpartition("/.launcher/")[2]
    assert items(box)[key]["stays"] == "being built"
    clean(box, "--yes")
    assert os.path.exists(f"{host.user_home}/.launcher/{key}.{beside}")
