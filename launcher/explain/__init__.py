"""What became of a run, in one sentence, and the one override that is likely to help.

Pure: whoever asks gathers the evidence. Why an order of rules: of the things that a log says, the
first cause is the most specific one. A node that dies makes ranks lose their connections, a rank
that is killed makes others fail; so what the scheduler did comes before what ranks felt, and an
exception is named as it is only where no rule knows more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.explain import ranks, scheduler, script
from launcher.explain.evidence import Evidence, Explanation
from launcher.explain.pending import pending
from launcher.job import RunState

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Evidence", "Explanation", "explain"]

# For a run that failed or was lost: the most specific first.
_RULES: tuple[Callable[[Evidence], Explanation | None], ...] = (
    scheduler.world,
    ranks.gpu_memory,
    scheduler.memory,
    scheduler.time_limit,
    scheduler.silent,
    scheduler.node_failure,
    scheduler.preempted,
    scheduler.deadline,
    scheduler.start,
    script.module,
    script.imports,
    script.usage,
    script.memory,
    script.files,
    script.port,
    ranks.talk,
    ranks.by_signal,
    script.plain,
    script.ended,
)


def explain(evidence: Evidence) -> Explanation:
    """Return what happened to the run, and what may help."""
    state = evidence.state
    if state is RunState.PENDING:
        return pending(evidence)
    if state is RunState.TIMED_OUT:
        return scheduler.time_limit(evidence) or Explanation(sentence=evidence.reason)
    if state in (RunState.FAILED, RunState.LOST):
        for rule in _RULES:
            found = rule(evidence)
            if found:
                return found
        return Explanation(sentence=evidence.reason or f"the run {_WORDS[state]}")
    return Explanation(sentence=_ordinary(evidence))


_WORDS = {
    RunState.SUBMITTING: "is being submitted",
    RunState.RUNNING: "is running",
    RunState.SUCCEEDED: "succeeded",
    RunState.CANCELLED: "was cancelled",
    RunState.FAILED: "failed",
    RunState.LOST: "was lost: nothing tells how it ended",
}


def _ordinary(evidence: Evidence) -> str:
    """Return the sentence of a run that has nothing to be explained."""
    where = f" on {evidence.nodes}" if evidence.nodes and not evidence.state.final else ""
    why = f": {evidence.reason}" if evidence.reason and evidence.state.final else ""
    return f"the run {_WORDS[evidence.state]}{where}{evidence.after}{why}"
