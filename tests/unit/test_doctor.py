from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import doctor

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.conftest import Project


def test_this_machine_can_run_jobs(project: Project) -> None:
    done = project.launch("doctor")
    assert done.returncode == 0, done.stdout
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert lines["compute=local"].endswith("ready")
    assert lines["dist=mpi"].endswith("ready")
    assert "2." in lines["git"]


def test_each_lack_has_its_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    checks = doctor.examine()
    said = doctor.verdicts(checks)
    assert "no git: apt-get install git" in said["compute=local"]
    assert "a C++ compiler, make: apt-get install g++ make" in said["dist=mpi"]
    assert "login node" in said["compute=slurm"]
    assert "openssh-client" in said["compute=ssh"]
    assert "micromamba" in said["environment.conda_packages"]
    assert not doctor.healthy(checks)
