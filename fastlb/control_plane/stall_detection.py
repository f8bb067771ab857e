"""Which targets hang: they hold requests and send no byte, while others of their group answer.

Pure: what the monitor read from the counters goes in, decisions come out, time is passed in, in
seconds. A target whose HTTP check passes in the midst of the silence is alive (a long poll, say); a
TCP check proves nothing of the kind: the kernel accepts connections for a hung process too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastlb.model.target_health import Observation, Stalled, StallOver

PROBE_ANSWER = 0.25
"""The least time that a probe of a silent target gets to pass."""
PROOF_HOLDS = 3.0
"""So long does a check that passed in a silence count as a proof of life in that silence."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known of one target that is eligible, or suspect, at one moment.

    `silent_since` is the later of its last byte and of the time when the oldest of its `waiting`
    requests began to wait; None where nothing waits. The probe that is under way began at
    `probing`; the last finished one ended at `checked_at`, the last that passed at `passed_at`.
    """

    index: int
    http_check: bool
    waiting: int
    silent_since: float | None
    last_byte: float
    suspect_since: float | None = None
    suspect_until: float = 0.0
    trusted_since: float = 0.0
    probing: float | None = None
    checked_at: float | None = None
    passed_at: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """For one target: what to observe of it, or (None) to probe it now."""

    index: int
    seen: Observation | None


def decide(
    sights: Iterable[Sight], eligible: int, stall_timeout: float, now: float
) -> list[Decision]:
    """The decisions for one group of which `eligible` targets are eligible.

    `sights` may leave out targets that neither are silent for half of `stall_timeout` nor suspect.
    """
    decisions: list[Decision] = []
    stalled: list[Sight] = []
    for sight in sights:
        if sight.suspect_since is not None:
            why = _suspicion_ends(sight, now)
            if why is not None:
                decisions.append(Decision(sight.index, StallOver(why)))
        elif _stalls(sight, stall_timeout, now):
            stalled.append(sight)
    answering = eligible - len(stalled)
    for sight in stalled:
        if sight.http_check and _wants_probe(sight):
            decisions.append(Decision(sight.index, None))
        silence = now - _silent_since(sight)
        if answering > 0 and _is_suspect(sight, silence, stall_timeout, now):
            decisions.append(Decision(sight.index, Stalled(silence, sight.waiting)))
    return decisions


def _silent_since(sight: Sight) -> float:
    """After a suspicion the same old requests may wait still: the silence counts anew."""
    assert sight.silent_since is not None
    return max(sight.silent_since, sight.trusted_since)


def _stalls(sight: Sight, stall_timeout: float, now: float) -> bool:
    if not sight.waiting or sight.silent_since is None:
        return False
    silence = now - _silent_since(sight)
    if not sight.http_check:
        return silence >= stall_timeout
    return silence >= stall_timeout / 2 and not _proved_alive(sight, stall_timeout, now)


def _proved_alive(sight: Sight, stall_timeout: float, now: float) -> bool:
    # A check that passed as the silence had barely begun may have come just before the hang.
    return (
        sight.passed_at is not None
        and sight.passed_at >= _silent_since(sight) + stall_timeout / 4
        and now - sight.passed_at < PROOF_HOLDS
    )


def _wants_probe(sight: Sight) -> bool:
    """Unless one is under way, or one that did not pass has ended within this silence."""
    if sight.probing is not None:
        return False
    ended = sight.checked_at
    failed = ended is not None and ended != sight.passed_at and ended >= _silent_since(sight)
    return not failed


def _is_suspect(sight: Sight, silence: float, stall_timeout: float, now: float) -> bool:
    if not sight.http_check:
        return silence >= 2 * stall_timeout
    if silence < stall_timeout * 3 / 4:
        return False
    if sight.probing is not None:
        return now - sight.probing >= max(PROBE_ANSWER, stall_timeout / 4)
    return not _wants_probe(sight)


def _suspicion_ends(sight: Sight, now: float) -> str | None:
    """A passed HTTP check ends it too: TargetHealth sees to that."""
    assert sight.suspect_since is not None
    if sight.last_byte > sight.suspect_since:
        return "it answers again"
    if not sight.http_check and now >= sight.suspect_until:
        return f"{now - sight.suspect_since:.0f} s have passed, it may try again"
    return None
