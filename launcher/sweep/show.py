"""A sweep -> text for a person: what it plans, and what a submit did."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from launcher import show
from launcher.sweep.plan import Planner, groups, room

if TYPE_CHECKING:
    from launcher.job import GroupPlan
    from launcher.sweep.plan import Left, Room
    from launcher.sweep.submit import Queued, Sweep


def plan_text(sweep: Sweep) -> str:
    """Return all points, and what queues them; as if none of them were there already."""
    there = _room(sweep)
    planned = _groups(sweep, there)
    where = {
        run: (plan.folder.rpartition("/")[2], str(task))
        for plan in planned
        for task, run in enumerate(plan.runs)
    }
    rows = []
    for draft, run in zip(sweep.drafts, _runs(sweep), strict=True):
        group, task = where.get(run, ("", ""))
        values = [draft.values.get(key, "") for key in sweep.keys]
        rows.append([str(draft.number), *values, show.ranks(draft.job.resources), group, task])
    heads = ["POINT", *sweep.keys, "RANKS", "GROUP", "TASK"]
    parts = [f"# points\n{show.table(heads, rows)}"]
    parts += [f"# left out: {_left(each)}\n" for each in sweep.left]
    if there.beyond:
        count = len(there.fits)
        parts.append(f"# beyond a limit: a submit queues {count} now: {there.told()}\n")
    for plan in planned:
        files = "".join(f"# file {each.path}\n{each.text}" for each in plan.files)
        kind = f"{plan.kind}, {len(plan.runs)} runs"
        parts.append(f"# group {plan.folder.rpartition('/')[2]}: {kind}\n{files}")
        parts.append("# commands\n" + show.commands(plan.commands))
    return "\n".join(parts)


def plan_json(sweep: Sweep) -> str:
    """Return the same as JSON, each run's own plan with it."""
    planner = Planner()
    points: list[dict[str, Any]] = [
        {"point": draft.number, "values": draft.values, "plan": planner.plan(draft, run).to_json()}
        for draft, run in zip(sweep.drafts, _runs(sweep), strict=True)
    ]
    left = [{"point": e.number, "values": e.values, "reason": e.reason} for e in sweep.left]
    there = _room(sweep)
    queued = [plan.to_json() for plan in _groups(sweep, there)]
    beyond = [{"points": count, **asdict(limit)} for limit, count in there.beyond.items()]
    return show.json_text(
        {"id": sweep.id, "points": points, "left": left, "beyond": beyond, "groups": queued}
    )


def _left(left: Left) -> str:
    values = " ".join(f"{key}={value}" for key, value in left.values.items())
    return f"point {left.number} ({values}): {left.reason}"


def _runs(sweep: Sweep) -> list[str]:
    return [f"{sweep.id}-{draft.number:04}" for draft in sweep.drafts]


def _room(sweep: Sweep) -> Room:
    return room(dict(zip(_runs(sweep), sweep.drafts, strict=True)))


def _groups(sweep: Sweep, there: Room) -> tuple[GroupPlan, ...]:
    folder = f"{sweep.runs_dir}/.sweeps/{sweep.id}"
    drafts, runs = list(there.fits.values()), list(there.fits)
    return groups(drafts, runs, folder, f"{sweep.name}-{sweep.id}")


def queued_lines(sweep: Sweep, done: Queued, where: str) -> list[str]:
    """Return what a submit says at its end; ``where``: the option that names the runs' folder."""
    sweep_id, count = done.folder.id, sum(len(plan.runs) for plan in done.groups)
    lines = [f"launcher: left out: {_left(each)}" for each in sweep.left]
    if not count:
        lines.append(f"launcher: sweep {sweep_id}: nothing is left to launch")
    else:
        kinds = Counter(plan.kind for plan in done.groups)
        names = {"slurm": "job array", "local": "pool", "ssh": "pool"}
        how = ", ".join(
            f"{number} {names.get(kind, kind)}{'s' if number > 1 else ''}"
            for kind, number in kinds.items()
        )
        runs = f"{count} run{'s' if count > 1 else ''}"
        lines.append(f"launcher: sweep {sweep_id}: {runs} queued as {how}")
    verbs = ("runs --sweep", "wait", "cancel")
    lines.append("  " + "   ".join(f"launcher {verb} {sweep_id}{where}" for verb in verbs))
    return lines
