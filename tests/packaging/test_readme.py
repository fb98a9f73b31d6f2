"""The README is true: its reference, and every command of its tour with its output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launcher.reference import reference_markdown, sections
from tests.real.conftest import HOROVOD, settled
from tests.real.slurm_install import share_wheels

if TYPE_CHECKING:
    from tests.conftest import Project
    from tests.real.slurm import UserProject
    from tests.real.ssh import SshProject

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SLURM, HOSTS = PLACES = ("On a Slurm cluster", "On plain ssh hosts")
ID = r"\d{6}-\d{6}-\w{4}"
BEGIN, END = (
    "<!-- reference: begin (generated from launcher/schema.py) -->",
    "<!-- reference: end -->",
)


def test_every_key_has_a_meaning() -> None:
    for title, rows in sections():
        for key, kind, _, meaning in rows:
            assert meaning, f"{title}: {key} has no comment on its line"
            assert kind


def test_the_reference(request: pytest.FixtureRequest) -> None:
    text = README.read_text("utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    expected = f"{head}{BEGIN}\n{reference_markdown()}{END}{tail}"
    if request.config.getoption("--update-golden"):
        README.write_text(expected, "utf-8")
    assert README.read_text("utf-8") == expected


def plain(text: str) -> list[str]:
    """Return the lines without what differs from run to run: ids, numbers, folders, blanks."""
    text = re.sub(ID, "ID", text)
    text = re.sub(r"\S*/digits|\S*/project|/tmp/\S*/home/\w+/\w+", "PROJECT", text)
    text = re.sub(r"local:\S+", "local:HOST", text)
    text = re.sub(r"\b\d+m(?=\d\ds)", "", text)  # of what took minutes
    text = text.replace(", expected to start at once", "")  # said where Slurm is quick to tell
    text = re.sub(r"\d+(\.\d+)?(e-\d+)?", "N", text)
    return [re.sub(r"\s+", " ", line).strip() for line in text.strip().splitlines()]


def steps(place: str = "") -> list[tuple[str, str]]:
    """Return (command, what it prints) of the tour, or of its part on a cluster or on hosts."""
    found = {"": ""}
    for section in re.split(r"^(?=### )", README.read_text("utf-8"), flags=re.MULTILINE):
        name = next((each for each in PLACES if section.startswith(f"### {each}\n")), "")
        found[name] = found.get(name, "") + section
    blocks = re.findall(r"```console\n(.*?)```", found[place], re.DOTALL)
    found = [step for block in blocks for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, out) for command, _, out in (step.partition("\n") for step in found)]


def test_the_tour(project: Project) -> None:
    project.copy_example("digits")
    subprocess.run(["git", "init", "-q"], cwd=project.path, check=True)
    assert project.launch("env", "build", *HOROVOD).returncode == 0
    assert len(steps()) == 7
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command, expected in steps():
        for run in project.runs if command.startswith("git ") else ():
            settled(run)
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],
            cwd=project.path,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        shown = [line for line in done.stdout.splitlines() if not line.startswith("environment ")]
        assert done.returncode == 0, done.stdout
        assert plain("\n".join(shown)) == plain(expected), command


@pytest.mark.usefixtures("horovod_python")
def test_the_tour_on_a_slurm_cluster(user: UserProject) -> None:
    user.copy_example("digits")
    user.shell("git init -q")
    assert len(steps(SLURM)) == 2
    for command, expected in steps(SLURM):
        done = user.shell(f"{{ {command}; }} 2>&1")
        assert done.returncode == 0, done.stdout
        assert plain(done.stdout) == plain(expected), command


def test_the_tour_on_ssh_hosts(box: SshProject) -> None:
    share_wheels()
    box.copy_example("digits")
    box.shell("git init -q")
    (submit, started), (wait, ended) = steps(HOSTS)
    done = box.shell(f"{{ {submit} {box.config}; }} 2>&1 | grep -v '^host[ab]: '")
    assert plain(done.stdout) == plain(started), done.stdout
    run = done.stdout.split()[-1]
    done = box.shell(f"{re.sub(ID, run, wait)} 2>&1")
    assert done.stdout == re.sub(ID, run, ended), box.everything(box.run)


@pytest.mark.parametrize("script", ["examples/first_run.sh", "tests/run.sh", "tests/setup.sh"])
def test_the_two_commands_are_there(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
    assert script in README.read_text("utf-8") or script == "tests/setup.sh"
    assert "tests/run.sh" in (ROOT / ".ci" / "run").read_text()
