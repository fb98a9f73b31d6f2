"""What runs on real ssh hosts have to show: named here, and brought when asked, at any time."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tests.real.conftest import events, until
from tests.real.held import held
from tests.real.ssh import SINGLE, TWO_HOSTS, SshProject
from tests.real.test_ssh_data import received
from tests.real.test_ssh_runs import git

MB = 1 << 20
TRAIN = """\
import os, pathlib
rank = os.environ.get("RANK", "0")
out = pathlib.Path(os.environ["LAUNCHER_OUTPUT_DIR"])
saved = pathlib.Path(os.environ["LAUNCHER_CHECKPOINT_DIR"])
(out / f"of-{rank}.txt").write_text(rank)
(saved / f"shard-{rank}.pt").write_bytes(os.urandom(100_000))
(saved / "same.pt").write_text(os.uname().nodename)
if not (saved / "last.pt").exists() and rank == "0":
    (saved / "last.pt").symlink_to("shard-0.pt")
    os.mkfifo(saved / "pipe")
"""
SAVES = """\
import os, pathlib, time
saved = pathlib.Path(os.environ["LAUNCHER_CHECKPOINT_DIR"])
(saved / "epoch 1.pt").write_text("one")
pathlib.Path(os.environ["LAUNCHER_OUTPUT_DIR"], "curve.csv").write_text("1,2\\n")
(saved / "hot").write_bytes(bytes(40_000_000))
print("saved", flush=True)
time.sleep(600)
"""
# Fetches a run, of which a file changes before any part of it is read.
CHANGES = """\
import subprocess, sys
from launcher import cli
from launcher.ssh.channel import Channel

config, run, path = sys.argv[1:]
ask = Channel.ask

def changed(channel, request, *words, **how):
    if request == "take":
        line = f"touch .launcher/runs/{run}/{path}"
        subprocess.run(("ssh", "-F", config, channel.name, line), check=True)
    return ask(channel, request, *words, **how)

Channel.ask = changed
sys.exit(cli.run(["fetch", run]))
"""


def fetched(box: SshProject, *words: str) -> list[Path]:
    """Return what `launcher fetch` says is here."""
    done = box.launch("fetch", *words)
    assert done.returncode == 0, done.stderr
    return [box.path / each for each in done.stdout.splitlines()]


def sent(box: SshProject) -> int:
    """Return the bytes that hosta has sent by its network."""
    lines = Path(f"/proc/{box.hosts.hosta.pid}/net/dev").read_text().splitlines()[2:]
    counts = {line.split(":")[0].strip(): int(line.split(":")[1].split()[8]) for line in lines}
    return sum(count for name, count in counts.items() if name != "lo")


def test_checkpoints_are_named_and_brought_when_asked(box: SshProject) -> None:
    box.write("train.py", TRAIN)
    done = box.launch(*TWO_HOSTS, "wait=true")
    assert done.returncode == 0, done.stderr
    run = box.run
    assert {each.name for each in (run / "outputs").iterdir()} == {f"of-{r}.txt" for r in range(4)}
    assert not (run / "checkpoints").exists()
    there = box.there(run) / "checkpoints"
    size = sum(each.stat().st_size for each in there.iterdir())
    told = f"4 files, {round(size / 1000)} kB on hosta; 3 files, 200 kB on hostb: launcher fetch"
    assert f"not here: {told} {run.name}" in done.stderr
    assert told in box.launch("wait", run.name).stderr
    assert told in box.launch("show").stdout
    first = {"host": "hosta", "files": 4, "bytes": size}
    assert json.loads(box.launch("show", "--json").stdout)["elsewhere"][0] == first
    listed = box.launch("fetch", "@last", "--list").stdout.splitlines()
    assert any(
        line.split() == ["checkpoints/last.pt", "100", "kB", "hosta", "no"] for line in listed
    )
    assert any(line.split() == ["outputs/of-2.txt", "1", "B", "hostb", "yes"] for line in listed)

    (last,) = fetched(box, run.name, "checkpoints/last.pt")
    assert last.read_bytes() == (there / "shard-0.pt").read_bytes()
    assert {each.name for each in (run / "checkpoints").iterdir()} == {"last.pt"}
    fetched(box)
    assert (run / "checkpoints" / "same.pt").read_text() == "hosta"
    assert (run / "checkpoints.hostb" / "same.pt").read_text() == "hostb"
    for host, ranks in ((box.hosts.hosta, (0, 1)), (box.hosts.hostb, (2, 3))):
        for rank in ranks:
            name = f"shard-{rank}.pt"
            here = (run / "checkpoints" / name).read_bytes()
            assert here == (box.there(run, host) / "checkpoints" / name).read_bytes()
    assert "not here" not in box.launch("show").stdout
    before = received(box.hosts.hosta)
    assert len(fetched(box)) == 11
    assert fetched(box, "@last", "checkpoints/shard-[01]*") == [
        run / "checkpoints" / f"shard-{rank}.pt" for rank in (0, 1)
    ]
    assert received(box.hosts.hosta) - before < 100_000
    unknown = box.launch("fetch", "@last", "checkpoints/best.pt")
    assert unknown.returncode == 1
    assert "has no checkpoints/best.pt" in unknown.stderr
    assert "It has: outputs/of-0.txt" in unknown.stderr
    no_run = box.launch("fetch", "checkpoints/last.pt")
    assert "launcher fetch @last checkpoints/last.pt" in no_run.stderr


def test_what_a_run_has_while_it_goes_on_and_when_it_is_cut_off(box: SshProject) -> None:
    box.write("train.py", SAVES)
    run = box.submit(*SINGLE)
    until(lambda: "saved" in box.said(run))
    assert (fetched(box, run.name, "checkpoints/epoch*", "outputs")) == [
        run / "outputs" / "curve.csv",
        run / "checkpoints" / "epoch 1.pt",
    ]
    assert (run / "checkpoints" / "epoch 1.pt").read_text() == "one"
    # What is written all the time is told, and all else is here.
    (run / "outputs" / "curve.csv").unlink()
    box.write("changes.py", CHANGES)
    argv = ("python", "changes.py", box.hosts.config, run.name, "checkpoints/hot")
    changes = box.hosts.run(argv, cwd=box.path, env=box.env)
    assert changes.returncode == 3
    assert "hosta: checkpoints/hot changes while it is read" in changes.stderr
    assert (run / "outputs" / "curve.csv").read_text() == "1,2\n"
    assert "1 file, 40 MB on hosta" in box.launch("show", run.name).stdout
    box.hosts.hosta.kill()
    box.hosts.hosta.start()
    assert box.becomes(run, "FAILED", "LOST")
    (hot,) = fetched(box, run.name, "checkpoints/hot")
    assert hot.read_bytes() == bytes(40_000_000)
    assert fetched(box, run.name)


def test_a_large_checkpoint_blocks_nobody_and_is_resumed(box: SshProject) -> None:
    size = 300 * MB
    box.write(
        "train.py",
        "import os\n"
        f"data = os.urandom({MB}) * 300\n"
        "open(os.environ['LAUNCHER_CHECKPOINT_DIR'] + '/big', 'wb').write(data)\n",
    )
    assert box.launch(*SINGLE, "wait=true").returncode == 0
    run = box.run
    parts = run / ".parts"

    def there() -> int:
        return sum(each.stat().st_size for each in parts.glob("*"))

    with held(box, "hosta take 4", "fetch", run.name) as (running, go_on):
        box.hosts.hosta.unplug()
        go_on()
        _, said = running.communicate(timeout=180)
    assert running.returncode == 3
    assert "hosta" in said
    kept = there()
    assert 0 < kept < size
    assert not (run / "checkpoints").exists()
    offline = box.launch("show", run.name)
    assert "1 file, 315 MB on hosta" in offline.stdout, offline.stderr
    box.hosts.mend()
    before = sent(box)
    (big,) = fetched(box, run.name)
    assert big.read_bytes() == (box.there(run) / "checkpoints" / "big").read_bytes()
    assert sent(box) - before < size - kept + 20 * MB
    assert not list(parts.iterdir())
    box.hosts.hosta.unplug()  # what is here needs nobody
    assert fetched(box, run.name, "checkpoints/big") == [big]


def test_what_was_removed_there(box: SshProject) -> None:
    box.write("train.py", TRAIN)
    done = box.launch(*TWO_HOSTS, "wait=true")
    assert done.returncode == 0, done.stderr
    run = box.run
    fetched(box, run.name, "checkpoints/shard-0.pt", "checkpoints/shard-2.pt")
    shutil.rmtree(box.there(run))
    shutil.rmtree(box.there(run, box.hosts.hostb))
    # What is here is known for good; what is not is nowhere.
    lost = box.launch("fetch", run.name)
    assert lost.returncode == 3
    assert f"host: run {run.name} was removed there" in re.sub("host[ab]", "host", lost.stderr)
    assert f"launcher rerun {run.name}" in lost.stderr
    here = {f"outputs/of-{rank}.txt" for rank in range(4)}
    here |= {f"checkpoints/shard-{rank}.pt" for rank in (0, 2)}
    for _ in range(2):
        found = fetched(box, run.name)
        assert {each.relative_to(run).as_posix() for each in found} == here
    assert "not here" not in box.launch("show").stdout


def test_a_run_without_results_says_so(box: SshProject) -> None:
    box.write("train.py", "pass\n")
    assert box.launch(*SINGLE, "wait=true").returncode == 0
    for words in ((), ("--list",)):
        done = box.launch("fetch", "@last", *words)
        assert done.returncode == 0
        assert done.stdout == ""
        assert "has no outputs and no checkpoints" in done.stderr


def test_a_run_of_this_machine_has_all_here(box: SshProject) -> None:
    box.write("train.py", TRAIN)
    done = box.launch("entry_script=train.py", "environment.torch=null")
    assert done.returncode == 0, done.stderr
    names = [str(each.relative_to(box.run)) for each in fetched(box)]
    wanted = ["last.pt", "same.pt", "shard-0.pt"]
    assert names == ["outputs/of-0.txt", *(f"checkpoints/{each}" for each in wanted)]
    assert "not here" not in box.launch("show").stdout
    assert events(box.run)[-1]["state"] == "SUCCEEDED"


def test_another_clone_has_them_too(box: SshProject) -> None:
    git(box, "init", "-q", "-b", "main")
    box.write("train.py", TRAIN)
    assert box.launch(*SINGLE, "wait=true").returncode == 0
    run, ref = box.run, f"refs/launcher/runs/{box.run.name}"
    path = box.path.with_name(f"{box.path.name}-2")
    other = SshProject(path=path, hosts=box.hosts, venv=box.venv)
    git(box, "init", "-q", str(path))
    git(other, "fetch", "-q", str(box.path), f"{ref}:{ref}")
    run.rename(box.path / "gone")  # as on another machine, whose file system is another
    brought = fetched(other, run.name)
    assert [each.relative_to(path / "runs" / run.name).as_posix() for each in brought] == [
        "outputs/of-0.txt",
        *(f"checkpoints/{name}.pt" for name in ("last", "same", "shard-0")),
    ]
    assert (path / "runs" / run.name / "checkpoints" / "same.pt").read_text() == "hosta"
