"""The reference of the configuration's keys, read from schema.py: help and README show it."""

from __future__ import annotations

import ast
from importlib import resources

_TITLES = {
    "LaunchConf": ("", "the job: how it is launched"),
    "JobConf": ("", "the job: what is launched"),
    "SweepConf": ("sweep.", "sweeps (-m)"),
    "ComputeConf": ("compute.", "every compute"),
    "LocalConf": ("compute.", "compute=local"),
    "SlurmConf": ("compute.", "compute=slurm"),
    "SshConf": ("compute.", "compute=ssh"),
    "EnvironmentConf": ("environment.", "environment=cpu, environment=gpu (gpus_per_proc: 1)"),
    "MpiConf": ("dist.", "dist=mpi"),
    "ApplicationConf": ("hydra.launcher.", "hydra/launcher=training, beside the keys of the job"),
}


def sections() -> list[tuple[str, list[tuple[str, str, str, str]]]]:
    """Return (title, rows of (key, type, default, meaning)) for each schema, as it is written."""
    text = (resources.files("launcher") / "schema.py").read_text("utf-8")
    lines = text.splitlines()
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and node.name in _TITLES:
            prefix, title = _TITLES[node.name]
            rows = [
                _row(prefix, each, lines)
                for each in node.body
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
                # every option's own class stands in its YAML file
                if (each.target.id != "_target_" or node.name == "ComputeConf")
                and each.target.id not in ("defaults", "_recursive_")
            ]
            if rows:
                found.append((title, rows))
    return found


def rows() -> list[tuple[str, str, str, str]]:
    """Return the rows of all sections."""
    return [row for _, rows_of in sections() for row in rows_of]


def titles() -> list[tuple[str, str]]:
    """Return (key, title of its section) for every key that is not every option's."""
    found = [(row[0], title) for title, rows_of in sections() for row in rows_of]
    return [(key, title) for key, title in found if "=" in title]


def _row(prefix: str, node: ast.AnnAssign, lines: list[str]) -> tuple[str, str, str, str]:
    default = ast.unparse(node.value) if node.value else ""
    factories = {"field(default_factory=dict)": "{}", "field(default_factory=list)": "[]"}
    factories["field(default_factory=SweepConf)"] = "see below"
    plain = {"None": "null", "MISSING": "???", "True": "true", "False": "false"}
    default = factories.get(default, plain.get(default, default.strip("'")))
    default = default.rpartition(".")[2] if default[:1].isupper() else default
    meaning = lines[(node.end_lineno or 1) - 1].partition("  # ")[2]
    target = ast.unparse(node.target)
    default = {"compute": "local", "environment": "cpu", "dist": "single"}.get(target, default)
    return prefix + target, ast.unparse(node.annotation), default, meaning


def reference_text() -> str:
    """Return the reference as plain text."""
    parts = []
    for title, rows in sections():
        width = max(len(f"{key}: {default}") for key, _, default, _ in rows)
        body = "".join(f"  {f'{k}: {d}':<{width}}  {meaning}\n" for k, _, d, meaning in rows)
        parts.append(f"{title}\n{body}")
    return "\n".join(parts)


def reference_markdown() -> str:
    """Return the reference as Markdown tables, for the README."""
    parts = []
    for title, rows in sections():
        body = "".join(
            f"| `{key}` | {kind} | `{default}` | {meaning} |\n"
            for key, kind, default, meaning in rows
        )
        parts.append(
            f"**{title}**\n\n| key | type | default | meaning |\n|---|---|---|---|\n{body}"
        )
    return "\n".join(parts)
