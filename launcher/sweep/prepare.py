"""A request with sweeps -> all its jobs, decided before anything is written.

Why every point is planned first: the last of a thousand may be the one that cannot be, and then
nothing must have been queued.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import config, variables
from launcher.data import located
from launcher.errors import ConfigError, LaunchError, PlanError
from launcher.plan import check
from launcher.store import new_run_id
from launcher.sweep.compose import Composer
from launcher.sweep.places import Places
from launcher.sweep.plan import Draft, Left, Planner
from launcher.sweep.points import expand, first
from launcher.sweep.submit import Sweep

if TYPE_CHECKING:
    from launcher.app import Request
    from launcher.git import Place
    from launcher.sweep.points import Point


def prepare(request: Request) -> Sweep:
    """Return the sweep that ``request`` asks for; nothing is written.

    ConfigError or PlanError: it names the point that cannot be, unless those are left out
    (sweep.skip_invalid).
    """
    composer, places, planner = Composer(request), Places(), Planner()
    settings = _settings(composer, first(request))
    points = expand(request, settings)
    drafts: list[Draft] = []
    left: list[Left] = []
    hints: list[str] = []
    for point in points:
        try:
            values = composer.values(point.overrides)
            draft = _draft(point, values, places)
            planner.check(draft)
            drafts.append(draft)
        except (ConfigError, PlanError) as error:
            if not settings["skip_invalid"]:
                raise _named(error, point, len(points), others=bool(drafts)) from error
            left.append(Left(number=point.number, values=_values(point), reason=error.message))
            hints.append(error.hint)
    if not drafts:
        raise ConfigError(f"no point can be launched: {left[0].reason}", hint=hints[0])
    return _sweep(request, drafts, left, places.sources, settings["rerun_policy"])


def _settings(composer: Composer, words: tuple[str, ...]) -> dict[str, Any]:
    """Return the section ``sweep`` of the first point, or what was typed of it where that is wrong.

    ConfigError: it is wrong, and wrong points are not to be left out.
    """
    try:
        return composer.settings(words)
    except ConfigError:
        typed = composer.settings(tuple(each for each in words if each.startswith("sweep.")))
        if not typed["skip_invalid"]:
            raise
        return typed


def _sweep(
    request: Request,
    drafts: list[Draft],
    left: list[Left],
    sources: dict[str, Place],
    policy: str,
) -> Sweep:
    folders = {draft.job.runs_dir for draft in drafts}
    if len(folders) > 1:
        raise ConfigError(
            f"runs_dir: points of a sweep have one folder, not {len(folders)}",
            hint="Give one runs_dir=...; launch two sweeps for two folders.",
        )
    names = list(dict.fromkeys(draft.job.name for draft in drafts))
    known = drafts[0].job.secrets
    return Sweep(
        id=new_run_id(),
        name=names[0] if len(names) == 1 else f"{names[0]}-and-more",
        runs_dir=folders.pop(),
        overrides=tuple(variables.masked(each, known) for each in request.overrides),
        keys=tuple(dict.fromkeys(key for draft in drafts for key in draft.values)),
        rerun_policy=policy,
        wait=any(
            draft.job.config.get("wait") or draft.job.config.get("detach") is False
            for draft in drafts
        ),
        drafts=tuple(drafts),
        left=tuple(left),
        sources=sources,
    )


def _draft(point: Point, values: dict[str, Any], places: Places) -> Draft:
    job, secrets = config.job_of(values, point.overrides)
    check(job)
    facts = places.facts(job)
    return Draft(
        number=point.number,
        values=_values(point),
        job=located(job, facts),
        facts=facts,
        secrets=secrets,
    )


def _values(point: Point) -> dict[str, str]:
    return dict(point.varying)


def _named(error: LaunchError, point: Point, count: int, *, others: bool) -> LaunchError:
    """Return the error with the point that it is about; ``others`` can be launched."""
    if count == 1:
        return error
    words = " ".join(f"{key}={value}" for key, value in point.varying)
    leave = "; sweep.skip_invalid=true leaves such points out" if others else ""
    return type(error)(
        f"point {point.number} of {count} ({words}): {error.message}",
        hint=f"{error.hint}\n  Nothing was queued{leave}.".strip(),
    )
