"""The wheel, the sdist and an editable install, each used from a user's own project folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

ROOT = Path(__file__).parents[2]


def run(*words: str | Path, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [str(each) for each in words],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from it, out of a clean copy of what git tracks."""
    source = tmp_path_factory.mktemp("source")
    names = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT).split("\0")[:-1]
    for name in names:
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "-o", folder, source, cwd=folder)
    return folder


def test_what_the_wheel_holds(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "launcher/py.typed",
        "launcher/conf/config.yaml",
        "launcher/conf/compute/slurm.yaml",
        "launcher/environment/cxx20.cmake",
    } <= names
    assert "hydra_plugins/__init__.py" not in names  # other plugins would not be found
    here = {
        str(path.relative_to(above))
        for above, folder in ((ROOT, "launcher"), (ROOT / "plugins", "hydra_plugins"))
        for path in (above / folder).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert here <= names
    assert not any(name.startswith(("tests/", "examples/", "conf/")) for name in names)


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_a_project_of_a_users_own(kind: str, built: Path, tmp_path: Path, project: Project) -> None:
    run(sys.executable, "-m", "virtualenv", "-q", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    what = {
        "wheel": next(built.glob("*.whl")),
        "sdist": next(built.glob("*.tar.gz")),
        "editable": ROOT,
    }[kind]
    editable = ("-e",) if kind == "editable" else ()
    run(python, "-m", "pip", "install", "-q", *editable, what, cwd=tmp_path)
    project.write("train.py", "import sys\nprint('ran', sys.argv[1:])\n")
    project.write("conf/compute/mine.yaml", "defaults: [local]\ncpus_per_proc: 1\n")
    # Names that a user's folder may well have, and that must not get into our way.
    project.write("yaml.py", "raise RuntimeError('the project shadows a module')\n")
    words = ("compute=mine", "environment.torch=null", "script_params.lr=0.1")
    for start in ((python, "-m", "launcher"), (tmp_path / "venv" / "bin" / "launcher",)):
        out = run(*start, "entry_script=train.py", *words, cwd=project.path)
        assert out == "ran ['--lr', '0.1']\n"
    assert run(*start, "--version", cwd=project.path).strip() == "0.1.0"
    assert len(project.runs) == 2
    # Other Hydra applications in the same environment do not notice us.
    project.write(
        "apart/theirs.py",
        "import hydra\n@hydra.main(version_base=None, config_path='theirs', config_name='config')\n"
        "def main(cfg): print(cfg)\nmain()\n",
    )
    project.write("apart/theirs/config.yaml", "a: 1\n")
    theirs = project.path / "apart"
    assert run(python, "theirs.py", cwd=theirs).strip() == "{'a': 1}"
    # Those that want us find us.
    out = run(python, "theirs.py", "hydra/launcher=training", "a=2", cwd=theirs)
    assert out.strip() == "{'a': 2}"
    assert len(list(theirs.glob("runs/*/run.json"))) == 1
