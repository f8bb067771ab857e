"""TargetRegistry: columns, states, fail open, takeover, names; and the pure stall decisions."""

from __future__ import annotations

import logging
import socket
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.control_plane.name_resolution import resolve
from fastlb.control_plane.stall_detection import Decision, Sight, decide
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.errors import FastlbError
from fastlb.model.address import Address, parse_address
from fastlb.model.health_check import HealthCheck
from fastlb.model.target_group import Target, TargetGroup
from fastlb.model.target_health import (
    CheckFailed,
    CheckPassed,
    RequestFailed,
    Stalled,
    StallOver,
)
from fastlb.model.target_override import NOTHING, Added, OutOfUse, Override, WeightOverride
from fastlb.target_table.counters import TARGETS, Cell, Counters, block


class Changes:
    """Counts the calls of `changed`; `now` is the clock."""

    def __init__(self) -> None:
        self.count = 0
        self.now = 100.0

    def __call__(self) -> None:
        self.count += 1

    def clock(self) -> float:
        return self.now


def group(name: str, *addresses: str, **settings: object) -> TargetGroup:
    targets = tuple(Target(parse_address(address)) for address in addresses)
    return TargetGroup(name=name, targets=targets, **settings)  # type: ignore[arg-type]


@pytest.fixture
def changes() -> Changes:
    return Changes()


def web(changes: Changes, **settings: object) -> TargetRegistry:
    made = group("web", "127.0.0.1:9001", "127.0.0.1:9002", **settings)
    return TargetRegistry([made], {"web"}, changes, changes.clock)


def states(registry: TargetRegistry) -> list[str]:
    return [entry.state for entry in registry.entries()]


def see(registry: TargetRegistry, index: int, seen: object) -> None:
    target = registry.by_index(index)
    assert target is not None
    registry.observe(target, seen)  # type: ignore[arg-type]


def make_healthy(registry: TargetRegistry) -> None:
    for target in registry:
        registry.observe(target, CheckPassed(100.0))


def test_a_transition_is_logged_and_reported_once(
    changes: Changes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastlb.health")
    registry = web(changes)
    assert states(registry) == ["initial", "initial"]
    assert changes.count == 0
    see(registry, 0, CheckPassed(100.0))
    assert states(registry) == ["healthy", "initial"]
    assert changes.count == 1
    see(registry, 0, CheckPassed(101.0))
    assert changes.count == 1
    see(registry, 0, RequestFailed(1, "reset", "by peer"))
    assert changes.count == 2
    assert registry.entries()[0].state == "unhealthy"
    messages = [record.message for record in caplog.records]
    assert "target 127.0.0.1:9001 of group web: initial -> healthy: check passed" in messages
    assert (
        "target 127.0.0.1:9001 of group web: healthy -> unhealthy: "
        "cut the connection of a request (by peer), ejected"
    ) in messages


def test_fail_open_is_told_and_logged_at_both_ends(
    changes: Changes, caplog: pytest.LogCaptureFixture
) -> None:
    registry = web(changes)
    assert registry.fail_open("web")
    assert not caplog.records, "the start is no failure yet"
    make_healthy(registry)
    assert not registry.fail_open("web")
    assert registry.eligible("web") == 2
    see(registry, 0, RequestFailed(1, "refused", ""))
    assert not registry.fail_open("web")
    see(registry, 1, Stalled(1.0, 1))
    assert registry.fail_open("web")
    assert caplog.messages[-1] == "all 2 targets of group web are unhealthy: failing open"
    see(registry, 1, StallOver("it answers again"))
    assert caplog.messages[-1] == "group web has a healthy target again: no longer failing open"
    assert not registry.fail_open("web")


def test_targets_that_never_answered_fail_open_with_one_line(
    changes: Changes, caplog: pytest.LogCaptureFixture
) -> None:
    registry = web(changes)
    for _ in range(5):
        for index in (0, 1):
            see(registry, index, CheckFailed(100.0, "connection refused on :9001"))
    lines = [message for message in caplog.messages if "failing open" in message]
    assert lines == ["all 2 targets of group web are unhealthy: failing open"]


def test_who_is_replaced_by_targets_that_are_not_checked_yet_is_no_alarm(
    changes: Changes, caplog: pytest.LogCaptureFixture
) -> None:
    registry = web(changes)
    told: list[str] = []
    registry.told = lambda kind, subject, what, cause: told.append(what)
    make_healthy(registry)
    new = group("web", "127.0.0.1:9003", "127.0.0.1:9004")
    for target in registry.reconfigure([new], {"web"}, {}):
        registry.drain(target.index)
    assert registry.fail_open("web"), "those who are not checked yet get the requests meanwhile"
    see(registry, 2, CheckPassed(100.0))
    registry.deregister(0)
    registry.deregister(1)
    assert not caplog.records
    assert not [what for what in told if "failing open" in what]
    see(registry, 2, RequestFailed(1, "refused", ""))
    message = "no target of group web is healthy, and 1 of 2 are not checked yet: failing open"
    assert caplog.messages[-1] == message


def test_targets_that_are_not_checked_yet_are_an_alarm_once_their_checks_fail(
    changes: Changes, caplog: pytest.LogCaptureFixture
) -> None:
    registry = web(changes)
    see(registry, 0, CheckPassed(100.0))
    registry.drain(0)
    assert not caplog.records
    for _ in range(5):
        see(registry, 1, CheckFailed(100.0, "connection refused on :9002"))
    assert caplog.messages[-1] == "the only target of group web is unhealthy: failing open"


@pytest.mark.parametrize("ended", [False, True])
def test_at_the_end_of_all_nobody_fails_open(
    changes: Changes, caplog: pytest.LogCaptureFixture, ended: bool
) -> None:
    registry = web(changes)
    make_healthy(registry)
    see(registry, 1, RequestFailed(1, "refused", ""))
    if ended:
        registry.end()
    registry.deregister(0)
    registry.deregister(1)
    lines = [message for message in caplog.messages if "failing open" in message]
    assert bool(lines) is not ended


def test_groups_that_nobody_forwards_to_are_unused(changes: Changes) -> None:
    groups = [group("web", "127.0.0.1:9001"), group("spare", "127.0.0.1:9001")]
    registry = TargetRegistry(groups, {"web"}, changes, changes.clock)
    assert states(registry) == ["initial", "unused"]
    target = registry.by_index(1)
    assert target is not None
    assert not target.active
    assert target.describe(100.0) == "no listener forwards to group spare"
    assert registry.observe(target, CheckPassed(100.0)) is None
    assert not registry.fail_open("spare")


def test_draining_and_deregistering(changes: Changes) -> None:
    registry = web(changes)
    make_healthy(registry)
    changes.count = 0
    before = registry.membership
    registry.drain(0)
    registry.drain(0)
    assert states(registry) == ["draining", "healthy"]
    assert registry.membership == before + 1
    assert changes.count == 1
    target = registry.by_index(0)
    assert target is not None
    assert registry.observe(target, CheckFailed(100.0, "refused")) is None
    assert registry.eligible("web") == 1
    registry.deregister(0)
    registry.deregister(1)
    assert registry.entries() == ()
    assert registry.eligible("web") == 0
    assert not registry.fail_open("web"), "there is nobody to fail open to"


def test_an_index_is_given_away_only_after_its_release(changes: Changes) -> None:
    registry = web(changes)
    counters = Counters()
    try:
        counters.row(1)[block(0) + Cell.REQUESTS] = 5
        registry.deregister(0)
        third = registry.register("web", Target(parse_address("127.0.0.1:9003")))
        assert third.index == 2
        assert third.state == "initial"
        registry.release(0, counters, 2)
        assert counters.row(1)[block(0) + Cell.REQUESTS] == 0
        assert registry.register("web", Target(parse_address("127.0.0.1:9001"))).index == 0
        assert registry.register("web", Target(parse_address("127.0.0.1:9004"))).index == 3
    finally:
        counters.close()


def test_a_target_is_registered_once_unless_the_old_one_drains(changes: Changes) -> None:
    registry = web(changes)
    again = Target(parse_address("127.0.0.1:9001"))
    with pytest.raises(FastlbError, match="registered twice in group web"):
        registry.register("web", again)
    registry.drain(0)
    assert registry.register("web", again).index == 2
    registry.deregister(0)
    with pytest.raises(FastlbError, match="registered twice"):
        registry.register("web", again)


def test_there_is_an_end_to_targets(changes: Changes) -> None:
    many = tuple(Target(Address(host="127.0.0.1", port=1 + port)) for port in range(TARGETS))
    registry = TargetRegistry([TargetGroup(name="web", targets=many)], {"web"}, changes)
    assert len(registry) == TARGETS
    with pytest.raises(FastlbError, match="at most 2048"):
        registry.register("web", Target(parse_address("127.0.0.1:9999")))


def test_seeding_takes_states_and_epochs_over(changes: Changes) -> None:
    registry = web(changes)
    registry.seed(
        {
            ("web", "127.0.0.1:9001"): ("healthy", 4),
            ("web", "127.0.0.1:9009"): ("healthy", 9),
            ("api", "127.0.0.1:9002"): ("healthy", 9),
        }
    )
    assert states(registry) == ["healthy", "initial"]
    assert registry.entries()[0].epoch == 4
    assert registry.eligible("web") == 1
    assert changes.count == 1


def test_unchecked_groups_are_healthy_from_the_start(changes: Changes) -> None:
    registry = web(changes, health_check=HealthCheck(enabled=False))
    assert states(registry) == ["healthy", "healthy"]
    assert registry.eligible("web") == 2


def test_host_names_become_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(host: str, port: int, type: int) -> list[object]:
        return [
            (socket.AF_INET6, type, 6, "", ("2001:db8::1", port, 0, 0)),
            (socket.AF_INET, type, 6, "", ("192.0.2.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert str(resolve(parse_address("localhost:80"), "web")) == "192.0.2.1:80"
    assert str(resolve(parse_address("app:80"), "web")) == "[2001:db8::1]:80"
    for literal in ("127.0.0.1:1", "[::1]:1", "unix:/run/app.sock"):
        assert str(resolve(parse_address(literal), "web")) == literal


def test_a_name_that_cannot_be_resolved_is_named(
    changes: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(host: str, port: int, type: int) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", none)
    with pytest.raises(FastlbError, match=r"target app\.invalid:80 of group web: cannot resolve"):
        TargetRegistry([group("web", "app.invalid:80")], {"web"}, changes)


# -- stalls: what the counters showed goes in, decisions come out

SILENT = Sight(0, http_check=True, waiting=4, silent_since=0.0, last_byte=0.0)
TCP_SILENT = replace(SILENT, http_check=False)


def only(decisions: list[Decision]) -> Decision:
    assert len(decisions) == 1
    return decisions[0]


def test_a_silent_http_target_is_probed_then_suspect_within_the_stall_timeout() -> None:
    assert decide([SILENT], 3, 1.0, 0.49) == []
    assert only(decide([SILENT], 3, 1.0, 0.5)) == Decision(0, None)
    probing = replace(SILENT, probing=0.5)
    assert decide([probing], 3, 1.0, 0.74) == []
    decision = only(decide([probing], 3, 1.0, 0.8))
    assert decision.seen == Stalled(0.8, 4)


def test_a_probe_that_was_under_way_before_the_silence_counts() -> None:
    sight = replace(SILENT, probing=-0.3)
    assert decide([sight], 3, 1.0, 0.6) == []
    assert isinstance(only(decide([sight], 3, 1.0, 0.75)).seen, Stalled)


def test_a_probe_that_failed_in_the_silence_needs_no_other() -> None:
    sight = replace(SILENT, checked_at=0.55, passed_at=-1.0)
    assert decide([sight], 3, 1.0, 0.6) == []
    assert isinstance(only(decide([sight], 3, 1.0, 0.75)).seen, Stalled)


def test_a_check_that_passes_in_the_silence_proves_life_for_a_while() -> None:
    long_poll = replace(SILENT, checked_at=0.51, passed_at=0.51)
    for now in (0.6, 1.0, 2.0, 3.5):
        assert decide([long_poll], 3, 1.0, now) == []
    assert only(decide([long_poll], 3, 1.0, 3.52)) == Decision(0, None)


def test_a_check_that_passed_as_the_silence_began_proves_nothing() -> None:
    sight = replace(SILENT, checked_at=0.01, passed_at=0.01)
    assert only(decide([sight], 3, 1.0, 0.5)) == Decision(0, None)


def test_where_nobody_answers_nobody_is_suspect() -> None:
    sights = [replace(SILENT, index=index, probing=0.5) for index in range(3)]
    assert decide(sights, 3, 1.0, 5.0) == []
    decisions = decide(sights[:2], 3, 1.0, 5.0)
    assert [decision.index for decision in decisions] == [0, 1]


def test_one_that_is_proved_alive_counts_as_answering() -> None:
    slow = replace(SILENT, index=1, checked_at=0.6, passed_at=0.6)
    hung = replace(SILENT, probing=0.5)
    assert isinstance(only(decide([hung, slow], 2, 1.0, 0.9)).seen, Stalled)


def test_without_an_http_check_twice_the_silence_is_needed() -> None:
    assert decide([TCP_SILENT], 2, 1.0, 1.99) == []
    assert only(decide([TCP_SILENT], 2, 1.0, 2.0)).seen == Stalled(2.0, 4)
    passed = replace(TCP_SILENT, checked_at=1.9, passed_at=1.9)
    assert only(decide([passed], 2, 1.0, 2.0)).seen == Stalled(2.0, 4)
    other = replace(TCP_SILENT, index=1)
    assert decide([TCP_SILENT, other], 2, 1.0, 9.0) == []


def test_how_a_suspicion_ends() -> None:
    suspect = replace(TCP_SILENT, suspect_since=2.0, suspect_until=4.0)
    assert decide([suspect], 1, 1.0, 3.9) == []
    assert isinstance(only(decide([suspect], 1, 1.0, 4.0)).seen, StallOver)
    answers = replace(suspect, last_byte=2.5)
    assert only(decide([answers], 1, 1.0, 3.0)).seen == StallOver("it answers again")
    http = replace(suspect, http_check=True)
    assert decide([http], 1, 1.0, 100.0) == [], "only a passed check or a byte ends it"
    http = replace(http, last_byte=2.5)
    assert isinstance(only(decide([http], 1, 1.0, 3.0)).seen, StallOver)


def test_the_old_silence_does_not_count_again_after_a_suspicion() -> None:
    trusted = replace(TCP_SILENT, trusted_since=4.0)
    assert decide([trusted], 2, 1.0, 5.9) == []
    assert only(decide([trusted], 2, 1.0, 6.0)).seen == Stalled(2.0, 4)


sights = st.builds(
    Sight,
    index=st.integers(0, 2000),
    http_check=st.booleans(),
    waiting=st.integers(0, 3),
    silent_since=st.floats(0, 10),
    last_byte=st.floats(0, 10),
    trusted_since=st.floats(0, 10),
    probing=st.none() | st.floats(0, 10),
    checked_at=st.none() | st.floats(0, 10),
    passed_at=st.none() | st.floats(0, 10),
)


@given(st.lists(sights, max_size=8), st.integers(0, 4), st.floats(0.1, 5))
def test_suspicion_always_leaves_somebody_who_answers(
    seen: list[Sight], others: int, stall_timeout: float
) -> None:
    now = 10.0
    decisions = decide(seen, len(seen) + others, stall_timeout, now)
    suspects = [one.index for one in decisions if one.seen is not None]
    assert len(suspects) < max(len(seen) + others, 1)
    for sight in seen:
        early = not sight.waiting or now - (sight.silent_since or 0) < stall_timeout * 0.74
        if early and sum(other.index == sight.index for other in seen) == 1:
            assert sight.index not in suspects


def test_a_suspicion_is_said_without_states_and_each_way_to_unhealthy_is_a_warning(
    changes: Changes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastlb.health")
    registry = web(changes)
    make_healthy(registry)
    caplog.clear()
    see(registry, 0, Stalled(2.1, 8))
    see(registry, 0, RequestFailed(1, "reset", "by peer"))
    see(registry, 1, Stalled(2.1, 1))
    see(registry, 1, StallOver("it answers again"))
    said = [(one.levelname, one.message) for one in caplog.records if one.message[0] == "t"]
    name = "target 127.0.0.1:900"
    assert said[0] == (
        "WARNING",
        f"{name}1 of group web: suspect: no byte for 2.1 s while 8 requests wait",
    )
    assert said[1][0] == "WARNING"
    assert "healthy -> unhealthy: cut the connection" in said[1][1]
    assert said[-1] == ("INFO", f"{name}2 of group web: no longer suspect: it answers again")


# -- shares, and who is told


def weights(registry: TargetRegistry) -> list[int]:
    return [entry.weight for entry in registry.entries()]


def test_weights_are_told_in_sixteenths_while_somebody_has_less_than_its_share(
    changes: Changes,
) -> None:
    targets = (
        Target(parse_address("127.0.0.1:9001"), weight=3),
        Target(parse_address("127.0.0.1:9002")),
        Target(parse_address("127.0.0.1:9003"), weight=0),
    )
    other = group("api", "127.0.0.1:9001")
    registry = TargetRegistry(
        [TargetGroup(name="web", targets=targets), other], {"web", "api"}, changes, changes.clock
    )
    assert weights(registry) == [3, 1, 0, 1]
    for share, expected in (
        (0.5, [48, 8, 0, 1]),
        (1 / 16, [48, 1, 0, 1]),
        (0.001, [48, 1, 0, 1]),  # never nothing
        (1.0, [3, 1, 0, 1]),
    ):
        changes.count = 0
        registry.set_share(1, share)
        assert weights(registry) == expected
        assert changes.count == 1
    registry.set_share(2, 0.5)
    assert weights(registry) == [48, 16, 0, 1], "a weight of 0 stays 0"


def test_who_comes_to_a_scaled_group_is_scaled_and_who_goes_ends_it(changes: Changes) -> None:
    registry = web(changes)
    registry.set_share(0, 0.25)
    registry.register("web", Target(parse_address("127.0.0.1:9003")))
    assert weights(registry) == [4, 16, 16]
    registry.drain(0)
    assert weights(registry) == [4, 16, 16]
    registry.deregister(0)
    assert weights(registry) == [1, 1]


def test_each_decision_is_told_with_its_kind(changes: Changes) -> None:
    registry = web(changes)
    told: list[tuple[str, str, str, str]] = []
    registry.told = lambda *decision: told.append(decision)
    registry.register("web", Target(parse_address("127.0.0.1:9003")))
    make_healthy(registry)
    registry.drain(0)
    registry.drain(0)
    registry.deregister(0)
    see(registry, 1, RequestFailed(1, "refused", ""))
    see(registry, 2, RequestFailed(1, "refused", ""))
    see(registry, 2, Stalled(1.0, 1))
    kinds = [(kind, subject.rpartition(":")[2], what) for kind, subject, what, _ in told]
    assert kinds[:7] == [
        ("routing", "9003", "registered"),
        ("health", "9001", "initial -> healthy"),
        ("health", "9002", "initial -> healthy"),
        ("health", "9003", "initial -> healthy"),
        ("routing", "9001", "draining"),
        ("routing", "9001", "deregistered"),
        ("health", "9002", "healthy -> unhealthy"),
    ]
    assert ("routing", "web", "failing open") in kinds
    assert all(why for *_, why in told)


def test_who_registered_a_target_hears_of_each_change_of_its_health(changes: Changes) -> None:
    registry = web(changes)
    heard: list[str] = []
    target = registry.register("web", Target(parse_address("127.0.0.1:9003")))
    target.changed = lambda: heard.append(target.state)
    see(registry, 0, CheckPassed(100.0))
    assert not heard, "another one's is none of its affair"
    see(registry, target.index, CheckPassed(100.0))
    see(registry, target.index, CheckPassed(101.0))
    see(registry, target.index, RequestFailed(1, "refused", ""))
    assert heard == ["healthy", "unhealthy"]


# -- what operators say

DRAINED = Override(out=OutOfUse("drained", 1.0))
DISABLED = Override(out=OutOfUse("disabled", 1.0))


def say(registry: TargetRegistry, index: int, override: Override) -> None:
    registry.say(index, override, "said", "by a test")


def test_a_drained_target_gets_nothing_even_by_failing_open_and_is_watched_on(
    changes: Changes,
) -> None:
    registry = web(changes)
    make_healthy(registry)
    target = registry.by_index(0)
    assert target is not None
    before = registry.membership
    say(registry, 0, DRAINED)
    assert registry.membership == before + 1
    assert states(registry) == ["draining", "healthy"]
    assert registry.eligible("web") == 1
    assert (target.watched, target.active, target.eligible) == (True, False, False)
    assert target.describe(100.0) == "healthy: check passed, last 0.0 s ago"
    see(registry, 1, RequestFailed(1, "refused", ""))
    assert registry.fail_open("web"), "to the other one alone"
    see(registry, 0, RequestFailed(1, "reset", ""))
    assert target.health.state == "unhealthy"
    assert registry.entries()[0].suspect, "who waits there may go elsewhere"
    registry.observe(target, CheckPassed(101.0))
    assert registry.fail_open("web")
    say(registry, 0, NOTHING)
    assert states(registry) == ["healthy", "unhealthy"], "it is back at once: its checks went on"
    assert not registry.fail_open("web")


def test_a_disabled_target_is_not_watched_and_comes_back_unknown(changes: Changes) -> None:
    registry = web(changes)
    make_healthy(registry)
    target = registry.by_index(0)
    assert target is not None
    epoch = target.health.epoch
    say(registry, 0, DISABLED)
    assert states(registry) == ["disabled", "healthy"]
    assert registry.observe(target, CheckFailed(101.0, "refused")) is None
    assert target.describe(100.0) == "not checked"
    say(registry, 0, NOTHING)
    assert states(registry) == ["initial", "healthy"]
    assert registry.eligible("web") == 1
    registry.observe(target, RequestFailed(epoch, "reset", "from before"))
    registry.observe(target, CheckPassed(102.0))
    assert states(registry) == ["healthy", "healthy"]


def test_weights_are_said_exactly_in_whole_numbers(changes: Changes) -> None:
    registry = web(changes)
    say(registry, 0, Override(weight=WeightOverride(1, True, 1.0)))
    assert [one.weight for one in registry.entries()] == [1, 100]
    registry.set_share(1, 0.5)
    assert [one.weight for one in registry.entries()] == [1, 50]
    say(registry, 0, Override(weight=WeightOverride(3, False, 1.0)))
    assert [one.weight for one in registry.entries()] == [48, 8]
    registry.set_share(1, 1.0)
    assert [one.weight for one in registry.entries()] == [3, 1]


def test_a_weight_of_zero_is_no_new_requests(changes: Changes) -> None:
    registry = web(changes)
    make_healthy(registry)
    say(registry, 0, Override(weight=WeightOverride(0, True, 1.0)))
    assert states(registry) == ["healthy", "healthy"]
    assert registry.eligible("web") == 1
    see(registry, 1, RequestFailed(1, "refused", ""))
    assert registry.fail_open("web")
    assert registry.entries()[0].weight == 0


def test_what_is_said_is_asked_for_at_each_registration(changes: Changes) -> None:
    left = []
    registry = TargetRegistry(
        [group("web", "127.0.0.1:9001")],
        {"web"},
        changes,
        changes.clock,
        override_of=lambda name, target: DRAINED if target.address.port == 9002 else NOTHING,
    )
    registry.left = lambda name, target: left.append(str(target.address))
    added = registry.register("web", Target(parse_address("127.0.0.1:9002")))
    assert states(registry) == ["initial", "draining"]
    registry.drain(added.index)
    again = registry.register("web", Target(parse_address("127.0.0.1:9002")))
    registry.deregister(added.index)
    assert left == [], "another one is there"
    registry.deregister(again.index)
    assert left == ["127.0.0.1:9002"]


def test_what_is_said_is_asked_anew_when_the_configuration_has_changed(changes: Changes) -> None:
    said = {9001: DRAINED}
    registry = TargetRegistry(
        [group("web", "127.0.0.1:9001", "127.0.0.1:9002")],
        {"web"},
        changes,
        changes.clock,
        override_of=lambda name, target: said.get(target.address.port, NOTHING),
    )
    make_healthy(registry)
    assert states(registry) == ["draining", "healthy"]
    said.clear()
    said[9002] = DISABLED
    registry.ask_anew()
    assert states(registry) == ["healthy", "disabled"]
    assert registry.eligible("web") == 1


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(
                [
                    NOTHING,
                    DRAINED,
                    DISABLED,
                    Override(weight=WeightOverride(0, False, 1.0)),
                    Override(weight=WeightOverride(33, True, 1.0)),
                    Override(added=Added(1, False, 1.0)),
                    CheckPassed(200.0),
                    CheckFailed(200.0, "no"),
                    RequestFailed(99, "reset", ""),
                    Stalled(1.0, 1),
                    StallOver("well"),
                    "drain",
                ]
            ),
        ),
        max_size=30,
    )
)
def test_the_count_of_eligible_targets_is_right_whatever_is_said_and_seen(
    steps: list[tuple[int, object]],
) -> None:
    changes = Changes()
    made = group("web", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
    registry = TargetRegistry([made], {"web"}, changes, changes.clock)
    for index, step in steps:
        if isinstance(step, Override):
            say(registry, index, step)
        elif step == "drain":
            registry.drain(index)
        else:
            see(registry, index, step)
        changes.now += 1
        members = registry.members("web")
        assert registry.eligible("web") == sum(one.eligible for one in members)
        for one in members:
            entry = one.entry
            assert (entry.state in ("draining", "disabled")) == (
                one.draining or one.override.out is not None
            )
            assert not (one.eligible and not (one.active and entry.weight))


# -- a configuration that changes


def started(made: TargetGroup, changes: Changes) -> TargetRegistry:
    return TargetRegistry([made], {"web"}, changes, changes.clock)


def reconfigured(registry: TargetRegistry, *groups: TargetGroup, used: str = "web") -> list[str]:
    """The addresses of those that are to be taken out."""
    registry.check(groups, {})
    gone = registry.reconfigure(groups, set(used.split()), {})
    return [str(one.address) for one in gone]


def test_what_stays_keeps_its_health_and_its_column(changes: Changes) -> None:
    registry = started(group("web", "127.0.0.1:1", "127.0.0.1:2"), changes)
    first, second = registry
    registry.observe(first, CheckPassed(0.0))
    registry.observe(second, CheckPassed(0.0))
    heavier = replace(first.target, weight=5, backup=True)
    other = Target(Address("127.0.0.1", 3))
    new = replace(group("web"), targets=(heavier, other), retries=3)
    assert reconfigured(registry, new) == ["127.0.0.1:2"]
    assert [one.index for one in registry] == [0, 1, 2]
    assert (first.state, first.entry.weight, first.entry.backup) == ("healthy", 5, True)
    assert first.group.retries == 3
    assert [one.state for one in registry] == ["healthy", "healthy", "initial"]
    assert registry.eligible("web") == 2
    registry.drain(second.index)
    registry.deregister(second.index)
    assert registry.columns == 3
    assert reconfigured(registry, new) == []


def test_one_that_comes_again_while_it_drains_is_another_registration(changes: Changes) -> None:
    both = group("web", "127.0.0.1:1", "127.0.0.1:2")
    registry = started(both, changes)
    assert reconfigured(registry, group("web", "127.0.0.1:1")) == ["127.0.0.1:2"]
    registry.drain(1)
    assert reconfigured(registry, both) == []
    assert [(one.index, one.state) for one in registry] == [
        (0, "initial"),
        (1, "draining"),
        (2, "initial"),
    ]


def test_groups_come_and_go_with_their_last_target(changes: Changes) -> None:
    web, api = group("web", "127.0.0.1:1"), group("api", "127.0.0.1:1")
    registry = started(web, changes)
    assert reconfigured(registry, web, api, used="web api") == []
    assert [one.group.name for one in registry] == ["web", "api"]
    assert reconfigured(registry, web) == ["127.0.0.1:1"]
    registry.drain(1)
    registry.deregister(1)
    assert reconfigured(registry, web) == []
    with pytest.raises(KeyError):
        registry.eligible("api")


def test_checks_that_change_keep_the_verdict(changes: Changes) -> None:
    registry = started(group("web", "127.0.0.1:1"), changes)
    (one,) = registry
    registry.observe(one, CheckPassed(0.0))
    slower = replace(group("web", "127.0.0.1:1"), health_check=HealthCheck(interval=60.0))
    reconfigured(registry, slower)
    assert (one.state, one.health.check.interval) == ("healthy", 60.0)
    for _ in range(3):
        registry.observe(one, CheckFailed(1.0, "no"))
    assert one.state == "unhealthy"
    reconfigured(registry, replace(slower, health_check=HealthCheck(enabled=False)))
    assert one.state == "healthy"
    assert registry.eligible("web") == 1
    reconfigured(registry, slower)
    assert one.health.next_check(100.0) == 100.0


def test_a_group_that_is_used_again_is_looked_at_anew(changes: Changes) -> None:
    web = group("web", "127.0.0.1:1")
    registry = started(web, changes)
    (one,) = registry
    registry.observe(one, CheckPassed(0.0))
    epoch = one.health.epoch
    reconfigured(registry, web, used="")
    assert (one.state, registry.eligible("web")) == ("unused", 0)
    reconfigured(registry, web)
    assert one.state == "initial"
    assert one.health.epoch > epoch


def test_two_names_of_one_address_are_refused_and_a_name_that_moved_moves(
    changes: Changes,
) -> None:
    registry = started(group("web", "127.0.0.1:1"), changes)
    name, here, there = Address("app", 1), Address("127.0.0.1", 1), Address("127.0.0.9", 1)
    both = replace(group("web"), targets=(Target(here), Target(name)))
    with pytest.raises(FastlbError, match=r"web\.targets: app:1 is 127\.0\.0\.1:1 already"):
        registry.check([both], {name: [here]})
    assert len(registry) == 1
    named = replace(group("web"), targets=(Target(name),))
    registry.check([named], {name: [here]})
    assert registry.reconfigure([named], {"web"}, {name: [here]}) == []  # the same, by a name
    assert len(registry) == 1
    assert registry.reconfigure([named], {"web"}, {name: [there, here]}) == []
    (gone,) = registry.reconfigure([named], {"web"}, {name: [there]})
    assert (gone.index, str(gone.address)) == (0, "127.0.0.1:1")
    assert [str(one.address) for one in registry] == ["127.0.0.1:1", "127.0.0.9:1"]


def test_what_was_registered_by_others_is_left_alone(changes: Changes) -> None:
    web = group("web", "127.0.0.1:1")
    registry = started(web, changes)
    registry.register("web", Target(Address("127.0.0.1", 2)))
    assert reconfigured(registry, web) == []
    assert len(registry) == 2
