"""The rules of the house that a reader would otherwise have to check by eye."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted([*(ROOT / "launcher").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])
APPLICATION = {  # of hydra_app/
    *("callback.py", "entry.py", "composed.py", "jobs.py", "launch.py", "pickled.py"),
    "__init__.py",  # of the plugin
}
MAY_IMPORT = {
    "subprocess": {"process.py"},
    "shlex": {"shell.py"},
    "hydra": {
        *("app.py", "config.py", "schema.py"),
        *("compose.py", "configs.py", "grammar.py", "parse.py"),
        *APPLICATION,
    },
    "omegaconf": {
        *("app.py", "config.py", "schema.py", "compose.py", "configs.py"),
        *APPLICATION,
    },
    "torch": {"bootstrap.py"},
    "horovod": {"bootstrap.py"},
    "numpy": set(),
    "pandas": set(),
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_only_their_own_modules_import(package: str) -> None:
    found = {path.name for path in MODULES if package in imported(path)}
    assert found <= MAY_IMPORT[package]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_budgets(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 40, node.name


def test_no_name_has_the_number_of_a_process_alone() -> None:
    """Machines that share a folder count theirs each for itself."""
    apart = ("nodename", "monotonic_ns")
    found = {
        path.name
        for path in MODULES
        for line in path.read_text("utf-8").splitlines()
        if "{os.getpid()}" in line and not any(each in line for each in apart)
    }
    assert found <= {"callback.py"}  # of rank 0, in its run's own folder


@pytest.mark.parametrize("path", ["bootstrap.py", "guard.py", "stage.py", "report.py"])
def test_what_runs_beside_the_script_needs_the_standard_library_only(path: str) -> None:
    allowed = {*sys.stdlib_module_names, "torch", "horovod"}
    assert imported(ROOT / "launcher" / path) <= allowed


@pytest.mark.parametrize(
    "module",
    [
        *("launcher", "launcher.supervisor", "launcher.run", "launcher.pool.pool"),
        *("launcher.pool.elsewhere", "launcher.pool.hold", "launcher.pool.keep"),
    ],
)
def test_what_runs_without_hydra_imports_the_standard_library_only(module: str) -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)


@pytest.mark.parametrize("module", ["launcher.cli", "launcher.api", "launcher.app"])
def test_the_launcher_never_imports_the_heavy_ones(module: str) -> None:
    program = (
        f"import {module}, sys; "
        "print([m for m in ('torch', 'numpy', 'pandas', 'horovod') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
