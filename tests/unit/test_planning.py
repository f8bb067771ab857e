"""Whom to launch and whom to end: examples, what never happens, and that it always comes to an end."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlb.auto_scaling.planning import Member, Plan, least_ready, plan, surge_of
from fastlb.model.auto_scaling import AutoScalingGroup

POLICIES = AutoScalingGroup(name="web").termination_policy
WELL = Member("", 1, 0.0, True, True, True, 0, False)
PENDING = replace(WELL, in_service=False, serving=False, settled=False)
FRESH = replace(WELL, settled=False)
EJECTED = replace(WELL, serving=False, settled=False)
OLD = replace(WELL, doomed="old")
SICK = replace(EJECTED, doomed="sick")
HARMFUL = replace(WELL, doomed="worse", harmful=True)


def group(*members: Member) -> list[Member]:
    """Named a, b, c ... and launched in this order."""
    return [
        replace(one, id="abcdefghij"[at], launched_at=float(at)) for at, one in enumerate(members)
    ]


def ended(todo: Plan) -> str:
    return "".join(sorted(id for id, _ in todo.end))


@pytest.mark.parametrize(
    ("min_healthy", "max_healthy", "desired", "surge", "least"),
    [
        (100, 200, 4, 4, 4),
        (100, 100, 4, 1, 4),
        (90, 100, 1, 1, 1),
        (90, 100, 10, 0, 9),
        (50, 150, 3, 1, 2),
        (0, 100, 4, 0, 0),
        (100, 200, 0, 1, 0),
    ],
)
def test_surge_and_least(
    min_healthy: int, max_healthy: int, desired: int, surge: int, least: int
) -> None:
    assert surge_of(desired, min_healthy, max_healthy) == surge
    assert least_ready(desired, min_healthy) == least


@pytest.mark.parametrize(
    ("members", "desired", "options", "launch", "end"),
    [
        # nothing is there, nothing is to be done, one is missing, one is over
        ((), 3, {}, 3, ""),
        ((WELL, WELL), 2, {}, 0, ""),
        ((WELL,), 2, {}, 1, ""),
        ((WELL, WELL, WELL), 2, {}, 0, "c"),
        ((WELL, PENDING, WELL), 2, {}, 0, "b"),
        ((WELL, EJECTED, WELL), 2, {}, 0, "b"),
        ((WELL, WELL), 0, {}, 0, "ab"),
        # protected, or nobody may end
        ((WELL, WELL, replace(WELL, protected=True)), 2, {}, 0, "b"),
        ((replace(WELL, protected=True),) * 2, 1, {}, 0, ""),
        ((WELL, WELL, WELL), 2, {"may_terminate": False}, 0, ""),
        ((OLD, WELL), 1, {"may_terminate": False}, 0, ""),
        # who is protected and not there yet does not stand for the one that serves
        ((WELL, replace(PENDING, protected=True)), 1, {}, 0, ""),
        ((WELL, replace(EJECTED, protected=True)), 1, {}, 0, ""),
        # the new one comes before the old one goes
        ((OLD,), 1, {}, 1, ""),
        ((OLD, PENDING), 1, {}, 0, ""),
        ((OLD, FRESH), 1, {}, 0, ""),
        ((OLD, WELL), 1, {}, 0, "a"),
        ((replace(OLD, protected=True), WELL), 1, {}, 0, "a"),
        ((OLD, OLD, OLD, OLD), 4, {"surge": 4}, 4, ""),
        ((OLD, OLD, OLD, OLD), 4, {"min_healthy": 50, "surge": 0}, 0, "cd"),
        ((OLD, OLD), 4, {"min_healthy": 50, "surge": 0}, 2, ""),
        # who serves nobody goes when another is there, or where it takes the room for that
        ((SICK, WELL), 2, {}, 1, ""),
        ((SICK, WELL, PENDING), 2, {}, 0, ""),
        ((SICK, WELL, FRESH), 2, {}, 0, "a"),
        ((SICK, WELL), 2, {"surge": 0}, 0, "a"),
        ((SICK, OLD), 2, {}, 1, ""),
        ((SICK,), 1, {}, 1, ""),
        ((SICK, PENDING), 1, {}, 0, ""),
        ((SICK,), 1, {"can_launch": False}, 1, "a"),
        ((replace(PENDING, doomed="old"),), 1, {}, 1, "a"),
        # and who is worse than nothing, if anybody else is there
        ((HARMFUL, HARMFUL), 2, {"surge": 2}, 2, ""),
        ((HARMFUL, HARMFUL, PENDING, PENDING), 2, {"surge": 2}, 0, ""),
        ((HARMFUL, HARMFUL, FRESH, PENDING), 2, {"surge": 2}, 0, "ab"),
        # a stopgap does not take the room of what is to replace it
        ((SICK, SICK), 2, {"min_healthy": 50, "surge": 0}, 0, "a"),
        ((HARMFUL, HARMFUL), 2, {"min_healthy": 50, "surge": 0}, 0, "a"),
        ((HARMFUL, HARMFUL), 2, {"min_healthy": 0, "surge": 0, "can_launch": False}, 0, ""),
        ((SICK,) * 5, 1, {}, 0, "abcd"),
        ((HARMFUL,) * 5, 1, {}, 0, "abcd"),
        ((SICK, HARMFUL), 0, {}, 0, "ab"),
    ],
)
def test_examples(
    members: tuple[Member, ...], desired: int, options: dict[str, int], launch: int, end: str
) -> None:
    todo = plan(group(*members), desired, policies=POLICIES, **options)  # type: ignore[arg-type]
    assert (todo.launch, ended(todo)) == (launch, end)


def test_each_end_has_its_cause() -> None:
    members = group(WELL, replace(OLD, doomed="too big"), SICK, WELL)
    todo = plan(members, 1, policies=POLICIES, shrinking="desired capacity 2 -> 1")
    assert dict(todo.end) == {
        "b": "too big",
        "c": "sick",
        "d": "desired capacity 2 -> 1",
    }


kinds = st.sampled_from([WELL, PENDING, FRESH, EJECTED, OLD, SICK, HARMFUL])
members_of_any_kind = st.lists(
    st.builds(lambda kind, on: replace(kind, protected=on), kinds, st.booleans()), max_size=10
).map(lambda found: group(*found))


def waits(one: Member) -> bool:
    """Whether it is to be replaced and serves nobody, but did once."""
    return one.doomed != "" and one.in_service and not one.serving


@given(
    members_of_any_kind,
    st.integers(0, 8),
    st.sampled_from([0, 50, 90, 100]),
    st.integers(0, 8),
    st.booleans(),
    st.booleans(),
)
def test_what_never_happens(
    members: list[Member],
    desired: int,
    min_healthy: int,
    surge: int,
    may_terminate: bool,
    can_launch: bool,
) -> None:
    todo = plan(
        members,
        desired,
        min_healthy=min_healthy,
        surge=surge,
        policies=POLICIES,
        may_terminate=may_terminate,
        can_launch=can_launch,
    )
    gone = {id for id, _ in todo.end}
    assert len(gone) == len(todo.end), "nobody is ended twice"
    assert todo.launch == 0 or len(members) + todo.launch <= desired + surge
    assert len([one for one in members if not one.doomed]) + todo.launch <= max(
        desired, len([one for one in members if not one.doomed])
    )
    left = [one for one in members if one.id not in gone]
    serving = sum(one.serving and not one.harmful for one in left)
    if any(one.id in gone and one.serving and not one.harmful for one in members):
        assert serving >= least_ready(desired, min_healthy)
    if any(one.id in gone and one.serving and one.harmful for one in members) and not serving:
        # Only as many as take the room of a launch, or where nobody is wanted. Or somebody else was
        # there and went as well, which is for min_healthy = 0 alone.
        others = any(one.serving and not one.harmful for one in members)
        assert not desired or others or len(left) == desired + surge - 1
    if desired and can_launch and any(one.id in gone and waits(one) for one in members):
        # The new one first, unless there is no room for both.
        there = sum(one.serving and not one.harmful for one in members)
        in_their_place = sum(one.doomed != "" and not one.serving for one in left)
        assert there + in_their_place >= desired or len(members) >= desired + surge
    for one in members:
        if one.id in gone and one.protected:
            assert one.doomed, "who is protected is not ended by a scale-in"
        if one.id in gone and not may_terminate:
            assert one.doomed
            assert not one.serving or one.harmful


@dataclass
class Life:
    """One Instance in the simulation; it is in service after 2 steps and settled after 4."""

    member: Member
    age: int = 0

    def grow(self) -> None:
        self.age += 1
        if self.age == 2:
            self.member = replace(
                self.member, in_service=True, serving=self.member.doomed != "sick"
            )
        if self.age == 4:
            self.member = replace(self.member, settled=self.member.serving)


class Simulation:
    """A group that is planned for again and again; an event is what happens before a step."""

    def __init__(self, desired: int, min_healthy: int, surge: int) -> None:
        self.desired = desired
        self.min_healthy = min_healthy
        self.surge = surge
        self.lives: list[Life] = []
        self.born = 0

    def happen(self, event: str, number: int) -> None:
        if event == "scale":
            self.desired = number
        one = self.lives[number % len(self.lives)] if self.lives else None
        if event == "refresh":
            for life in self.lives:
                life.member = replace(life.member, doomed=life.member.doomed or "old")
        elif event == "go back":
            for life in self.lives:
                life.member = replace(life.member, doomed="worse", harmful=True)
        elif one is None:
            return
        elif event == "sick":
            one.member = replace(one.member, doomed="sick", serving=False, settled=False)
        elif event == "crash":
            self.lives.remove(one)
        elif event == "protect":
            one.member = replace(one.member, protected=not one.member.protected)

    def step(self) -> None:
        members = [life.member for life in self.lives]
        # What `surge_of` gives: where nobody may go first there is room for one more.
        nobody_may_go = least_ready(self.desired, self.min_healthy) >= self.desired
        surge = max(min(self.surge, self.desired), 1 if nobody_may_go else 0)
        todo = plan(
            members,
            self.desired,
            min_healthy=self.min_healthy,
            surge=surge,
            policies=POLICIES,
        )
        gone = {id for id, _ in todo.end}
        self.lives = [life for life in self.lives if life.member.id not in gone]
        for life in self.lives:
            life.grow()
        for _ in range(todo.launch):
            self.born += 1
            launched_at = float(self.born)
            self.lives.append(Life(replace(PENDING, id=str(self.born), launched_at=launched_at)))

    @property
    def settled(self) -> bool:
        protected = sum(life.member.protected for life in self.lives)
        return len(self.lives) == max(self.desired, protected) and all(
            life.member.settled and not life.member.doomed for life in self.lives
        )


events = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.sampled_from(["scale", "refresh", "go back", "sick", "crash", "protect"]),
        st.integers(0, 8),
    ),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 8), st.sampled_from([0, 50, 90, 100]), st.integers(0, 8), events)
def test_whatever_happens_it_comes_to_what_it_should_be(
    desired: int, min_healthy: int, surge: int, events: list[tuple[int, str, int]]
) -> None:
    simulation = Simulation(desired, min_healthy, surge)
    for pause, event, number in events:
        for _ in range(pause):
            simulation.step()
        simulation.happen(event, number)
    for _ in range(120):
        simulation.step()
        if simulation.settled:
            break
    assert simulation.settled, [life.member for life in simulation.lives]
    simulation.step()
    assert simulation.settled, "and there it stays"


@pytest.mark.parametrize("min_healthy", [0, 50, 90, 100])
@pytest.mark.parametrize("max_healthy", [100, 150, 200])
@pytest.mark.parametrize("desired", range(1, 9))
def test_a_refresh_replaces_all_within_its_preferences(
    desired: int, min_healthy: int, max_healthy: int
) -> None:
    surge = surge_of(desired, min_healthy, max_healthy)
    simulation = Simulation(desired, min_healthy, surge)
    for _ in range(8):
        simulation.step()
    simulation.happen("refresh", 0)
    for _ in range(120):
        simulation.step()
        assert len(simulation.lives) <= desired + surge
        serving = sum(life.member.serving for life in simulation.lives)
        assert serving >= least_ready(desired, min_healthy)
    assert simulation.settled
