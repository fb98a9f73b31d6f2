"""`launcher clean` on real ssh hosts removes what it said, and nothing else."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.user import USER
from tests.real.conftest import until
from tests.real.ssh import TWO_HOSTS

if TYPE_CHECKING:
    import subprocess

    from tests.cluster.ssh_host import SshHost
    from tests.cluster.ssh_hosts import SshHosts
    from tests.conftest import Project
    from tests.real.ssh import SshProject

ENVIRONMENT = f"/home/{USER}/.launcher/cache/envs/00000000000000aa"
WRITES = "import os\nopen(os.environ['LAUNCHER_OUTPUT_DIR'] + '/result', 'w').write('42')\n"


@pytest.fixture
def blank(hosts: SshHosts) -> SshHosts:
    """Hosts of whose disks nothing of the launcher's is left."""
    for host in hosts.all:
        there(hosts, host.name, "chmod -R u+w .launcher 2>/dev/null; rm -rf .launcher precious on")
    return hosts


def there(hosts: SshHosts, host: str, line: str) -> str:
    done = hosts.ssh(host, line)
    assert done.returncode == 0, done.stderr
    return done.stdout


def words(hosts: SshHosts, *names: str) -> tuple[str, ...]:
    chosen = ",".join(names or ("hosta",))
    return ("compute=ssh", f"compute.hosts=[{chosen}]", f"compute.ssh_config={hosts.config}")


def submit(project: Project, hosts: SshHosts, *options: str, script: str = WRITES) -> str:
    """Return the id of a run of this script; it has ended, with its pool, if nothing is said."""
    project.write("train.py", script)
    known = ("entry_script=train.py", "environment.torch=null", "compute.grace_s=1")
    done = project.launch(*words(hosts), *known, *(options or ("wait=true",)))
    assert done.returncode == 0, done.stderr
    if not options:
        quiet(hosts)
    return project.runs[-1].name


def quiet(hosts: SshHosts) -> None:
    """Wait until nothing of ours runs: a pool that is about to end has its run in use."""
    until(lambda: not any("python3" in each for host in hosts.all for each in words_of(host)))


def words_of(host: SshHost) -> list[str]:
    return list(host.processes().values())


def grow_old(hosts: SshHosts, host: str, *paths: str) -> None:
    """Have all that lies there look as if it was used last forty days ago."""
    for path in paths or (".",):
        where = shlex.quote(f".launcher/{path}")
        but = "-not -path '*/outputs/*'"  # that was brought as it was
        there(hosts, host, f"find {where} {but} -exec touch -h -d '40 days ago' {{}} +")


def clean(project: Project, hosts: SshHosts, *options: str) -> subprocess.CompletedProcess[str]:
    named = () if any(each.startswith("compute.hosts=") for each in options) else words(hosts)
    done = project.launch("clean", *named, *options)
    assert "Traceback" not in done.stderr
    return done


def shown(project: Project, hosts: SshHosts, *options: str) -> dict[str, dict[str, Any]]:
    """Return what is left on the first host, by path."""
    done = clean(project, hosts, *options, "--json")
    assert done.returncode == 0, done.stderr
    return {item["path"]: item for item in json.loads(done.stdout)["hosts"][0]["items"]}


def left(host: SshHost) -> set[str]:
    """Return what lies in the launcher's folder on a host, two levels deep."""
    top = host.user_home / ".launcher"
    return {str(each.relative_to(top)) for each in (*top.glob("*"), *top.glob("*/*"))}


def runs(host: SshHost) -> set[str]:
    return {each.name for each in (host.user_home / ".launcher" / "runs").glob("[0-9]*")}


# ------------------------------------------------------------------ what it says, it does


def test_what_is_old_goes_as_was_said(project: Project, blank: SshHosts) -> None:
    old = submit(project, blank)
    tree = there(blank, "hosta", f"cat .launcher/runs/{old}/code.tree")
    grow_old(blank, "hosta")
    new = submit(project, blank, script=WRITES + "# another tree\n")
    grow_old(blank, "hosta", f"trees/{tree}")  # the new one was made of it
    items = shown(project, blank)
    assert items[f"runs/{old}"]["stays"] == ""
    assert items[f"runs/{old}"]["state"] == "SUCCEEDED"
    assert items[f"runs/{old}"]["age_s"] == pytest.approx(40 * 86400, abs=7200)
    assert items[f"runs/{new}"]["stays"] == "younger"
    assert items["objects"]["state"] == "1 tree, 1 file"
    said = clean(project, blank)
    assert said.returncode == 0
    assert f"hosta  run       {old}    SUCCEEDED" in said.stdout
    assert "--older-than 30d --yes removes what may go" in said.stderr
    before = left(blank.hosta)
    assert {f"runs/{old}", f"runs/{new}", f"trees/{tree}"} <= before
    done = clean(project, blank, "--yes")
    assert done.returncode == 0, done.stderr
    said = [line.partition(", ")[0] for line in done.stdout.splitlines()]
    assert said[:2] == [f"hosta: removed run {old}", "hosta: removed code"]
    gone = before - left(blank.hosta)
    assert gone == {f"runs/{old}", f"trees/{tree}"}
    assert (project.path / "runs" / old / "outputs" / "result").read_text() == "42"
    assert runs(blank.hosta) == {new}
    assert {new, submit(project, blank)} == runs(blank.hosta)  # what is gone travels again
    assert clean(project, blank, "--yes").stdout == "hosta: nothing to be removed\n"


def test_results_that_are_not_here_keep_their_run(project: Project, blank: SshHosts) -> None:
    run = submit(project, blank)
    there(blank, "hosta", f"echo weights >.launcher/runs/{run}/checkpoints/last.pt")
    grow_old(blank, "hosta")
    items = shown(project, blank)
    assert items[f"runs/{run}"]["stays"] == "checkpoints/last.pt not here"
    assert items[f"runs/{run}"]["unfetched"] is True
    done = clean(project, blank, "--yes")
    assert done.returncode == 0
    assert "launcher: 1 run stays, whose results are not all here" in done.stderr
    assert runs(blank.hosta) == {run}
    elsewhere = clean(project, blank, "runs_dir=others", "--yes")
    assert "1 run stays" in elsewhere.stderr
    forced = clean(project, blank, "--force-unfetched", "--yes")
    assert f"hosta: removed run {run}, " in forced.stdout
    assert runs(blank.hosta) == set()


def test_what_goes_on_stays_with_all_that_it_needs(project: Project, blank: SshHosts) -> None:
    there(blank, "hosta", f"python3 -m venv --without-pip {ENVIRONMENT}")
    there(blank, "hosta", f"cp -r {ENVIRONMENT} {ENVIRONMENT[:-1]}b")
    python = f"environment.python={ENVIRONMENT}/bin/python"
    options = ("wait=false", "environment.provision=current", python)
    script = "import os, time\nprint('ready', flush=True)\n"
    script += "while not os.path.exists(os.environ['HOME'] + '/on'): time.sleep(0.05)\n"
    run = submit(project, blank, *options, script=script)
    log = blank.hosta.user_home / ".launcher" / "runs" / run / "logs" / "rank-0.log"
    until(lambda: log.exists() and "ready" in log.read_text())
    grow_old(blank, "hosta")
    before = left(blank.hosta)
    items = shown(project, blank, "--older-than", "0s")
    key = ENVIRONMENT.rpartition("/.launcher/")[2]
    assert items[f"runs/{run}"]["stays"] == items[key]["stays"] == "in use"
    assert items[f"{key[:-1]}b"]["stays"] == ""
    done = clean(project, blank, "--older-than", "0s", "--force-unfetched", "--yes")
    assert done.stdout.startswith(f"hosta: removed environment {key[-16:-1]}b, ")
    assert done.stdout.count("removed") == 1
    assert left(blank.hosta) == before
    assert (blank.hosta.user_home / ".launcher" / key / "bin").is_dir()
    there(blank, "hosta", "touch on")
    waited = project.launch("wait", run)
    there(blank, "hosta", "rm on")
    assert waited.returncode == 0, waited.stderr
    quiet(blank)
    grow_old(blank, "hosta", key, f"{key}/bin")
    items = shown(project, blank)
    assert items[key]["stays"] == "a run that stays needs it"
    done = clean(project, blank, "--older-than", "0s", "--yes")
    assert f"hosta: removed run {run}, " in done.stdout
    assert f"hosta: removed environment {key[-16:]}, " in done.stdout
    assert runs(blank.hosta) == set()


# ------------------------------------------------------------------ several hosts


def test_the_first_host_tells_for_the_others(project: Project, blank: SshHosts) -> None:
    run = submit(project, blank)
    # As a rank on another host leaves it: there no event tells of the run.
    there(
        blank, "hostb", f"mkdir -p .launcher/runs/{run}/logs && echo line >.launcher/runs/{run}/x"
    )
    grow_old(blank, "hostb")
    done = clean(project, blank, *words(blank, "hostb"), "--yes")
    assert "hostb: removed" in done.stdout  # the folder here knows its end
    assert runs(blank.hostb) == set()


def test_a_run_on_two_hosts_with_its_environment(box: SshProject, blank: SshHosts) -> None:
    box.write("train.py", "print('there')\n")
    done = box.launch(*TWO_HOSTS, "wait=true")
    assert done.returncode == 0, done.stderr
    quiet(blank)
    run = box.run.name
    names = ("compute=ssh", "compute.hosts=[hosta,hostb]", "dist=mpi", "dist.horovod=false")
    told = box.launch("doctor", *names, "environment.torch=null", "nodes=2", "--json")
    assert told.returncode == 0, told.stdout
    located = [each["environment"] for each in json.loads(told.stdout)["hosts"]]
    assert [each["ready"] for each in located] == [True, True]
    key = f"cache/envs/{located[0]['key']}"
    for name in ("hosta", "hostb"):
        grow_old(blank, name)
    there(blank, "hosta", f"touch .launcher/runs/{run}/events.jsonl")
    kept = box.launch("clean", *names, "--json")
    told_of = [each["items"] for each in json.loads(kept.stdout)["hosts"]]
    items = [{each["path"]: each for each in of_one} for of_one in told_of]
    assert [each[f"runs/{run}"]["stays"] for each in items] == ["younger", ""]
    assert [each[f"runs/{run}"]["state"] for each in items] == ["SUCCEEDED"] * 2
    assert [each[key]["stays"] for each in items] == ["a run that stays needs it", ""]
    grow_old(blank, "hosta")
    done = box.launch("clean", *names, "--yes")
    assert done.returncode == 0, done.stdout
    for name in ("hosta", "hostb"):
        assert f"{name}: removed run {run}, " in done.stdout
        assert f"{name}: removed environment {key[-16:]}, " in done.stdout
    assert runs(blank.hosta) == runs(blank.hostb) == set()
    assert not (blank.hosta.user_home / ".launcher" / key).exists()


def test_a_host_that_is_not_reached_is_told(project: Project, blank: SshHosts) -> None:
    run = submit(project, blank)
    grow_old(blank, "hosta")
    blank.hostb.refuse()
    done = clean(project, blank, *words(blank, "hosta", "hostb"), "--yes")
    assert done.returncode == 1
    assert f"hosta: removed run {run}" in done.stdout
    assert "hostb cannot be reached: it refuses this user or key" in done.stdout


# ------------------------------------------------------------------ what must not happen


def test_nothing_behind_a_link_is_touched(project: Project, blank: SshHosts) -> None:
    run = submit(project, blank)
    for line in (
        "mkdir precious && echo gold >precious/gold",
        f"ln -s ~/precious .launcher/runs/{run}/outputs/link",
        "ln -s ~/precious .launcher/runs/200101-000000-link",
        "mkdir -p .launcher/cache && ln -s ~/precious .launcher/cache/envs",
    ):
        there(blank, "hosta", line)
    grow_old(blank, "hosta")
    shut = f".launcher/runs/{run}/outputs/shut"
    there(blank, "hosta", f"mkdir {shut} && touch {shut}/file && chmod 0 {shut}")
    done = clean(project, blank, "--yes", "--force-unfetched")
    assert done.returncode == 0, done.stdout
    assert f"removed run {run}" in done.stdout
    assert there(blank, "hosta", "cat precious/gold; ls .launcher/runs").split() == [
        *("gold", "200101-000000-link")
    ]


def test_two_at_once_while_runs_start(project: Project, blank: SshHosts) -> None:
    old = [submit(project, blank, script=f"print({number})") for number in range(3)]
    grow_old(blank, "hosta")
    asked = ("clean", *words(blank), "--older-than", "0s", "--yes")
    both = [project.start(*asked) for _ in range(2)]
    new = submit(project, blank, script="print(0)")
    said = [each.communicate(timeout=180) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert set(old) & runs(blank.hosta) == set()
    for run in old:
        assert sum(f"removed run {run}, " in out for out, _ in said) == 1
    assert (project.path / "runs" / new / "logs" / "rank-0.log").read_text() == "0\n"
    assert "trash" not in there(blank, "hosta", "ls .launcher")


def test_a_full_disk_is_freed(project: Project, blank: SshHosts) -> None:
    run = submit(project, blank)
    grow_old(blank, "hosta")
    blank.hosta.fill()
    done = clean(project, blank, "--yes")
    assert done.returncode == 0, done.stderr
    assert f"removed run {run}, " in done.stdout
    assert "removed launcher " in done.stdout
    assert (
        there(blank, "hosta", "ls .launcher/runs; echo more >more; cat more; rm more") == "more\n"
    )


def test_what_a_host_that_lost_its_power_has_goes(project: Project, blank: SshHosts) -> None:
    submit(project, blank)
    torn = f"trees/{'0' * 40}.123.new trees/{'1' * 40} objects/00/{'0' * 38}.123.new"
    line = f"cd .launcher && mkdir -p objects/00 && for each in {torn}; do echo 100644 >$each; done"
    there(blank, "hosta", line)
    names = [f".launcher/{each}" for each in torn.split()]
    assert shown(project, blank, "--older-than", "0s")["trees"]["stays"]
    clean(project, blank, "--older-than", "0s", "--yes")
    assert there(blank, "hosta", f"ls {' '.join(names)}").split() == sorted(names)
    grow_old(blank, "hosta", "trees", "objects")
    clean(project, blank, "--yes")
    assert there(blank, "hosta", f"ls {' '.join(names)} || true") == ""


def test_what_a_killed_one_left_goes(project: Project, blank: SshHosts) -> None:
    left_there = "trash.4194305.1/deep ssh_config.4194305 doctor.4194305"
    there(blank, "hosta", f"mkdir -p .launcher && cd .launcher && mkdir -p {left_there}")
    done = clean(project, blank, "--yes")
    assert done.stdout.count("hosta: removed remains ") == 3
    assert there(blank, "hosta", "ls -A .launcher") == ""


def test_one_that_is_killed_is_finished_by_the_next(project: Project, blank: SshHosts) -> None:
    top = blank.hosta.user_home / ".launcher"
    for _ in range(20):  # until it was killed before it was done
        run = submit(project, blank)
        many = f"mkdir -p .launcher/runs/{run}/code/many && cd .launcher/runs/{run}/code/many"
        there(blank, "hosta", f"{many} && seq 30000 | xargs touch")
        grow_old(blank, "hosta")
        with project.start("clean", *words(blank), "--yes") as killed:
            until(lambda: list(top.glob("trash.*")) or killed.poll() is not None)
            killed.kill()
            killed.communicate()
        quiet(blank)
        if list(top.glob("trash.*")):
            break
    done = clean(project, blank, "--yes")
    assert done.returncode == 0, done.stdout
    assert runs(blank.hosta) == set()
    assert list(top.glob("trash.*")) == []
    assert {submit(project, blank)} == runs(blank.hosta)


# ------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("compute=local",), "compute=local: launcher clean takes hosts"),
        ((), "launcher env remove KEY"),
        (("compute=ssh",), "nodes=1 needs as many hosts"),
        (("compute=ssh", "compute.hosts=[x]", "--older-than", "7"), "--older-than 7: not an age"),
    ],
)
def test_wrong_words_are_refused(project: Project, options: tuple[str, ...], said: str) -> None:
    done = project.launch("clean", *options)
    assert done.returncode == 2
    assert said in done.stderr
