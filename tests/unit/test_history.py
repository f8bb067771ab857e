"""What was decided: bounded, numbered, filtered, and waited for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from fastlb.history import MOST_ENTRIES, Entry, History


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def numbers(entries: list[Entry]) -> list[int]:
    return [one.number for one in entries]


def test_the_newest_are_kept_and_numbers_only_grow() -> None:
    history = History(most=3)
    for number in range(5):
        history.add("scaling", "web", f"what {number}", "why")
    assert numbers(history.after(0)) == [3, 4, 5]
    assert numbers(history.after(4)) == [5]
    assert history.after(5) == history.after(99) == []
    whole = History()
    for _ in range(MOST_ENTRIES + 10):
        whole.add("scaling", "web", "what", "why")
    assert len(whole.after(0)) == MOST_ENTRIES


def test_one_subject_or_all() -> None:
    history = History()
    for subject in ("web", "api", "web", "web2"):
        history.add("activity", subject, "what", "why")
    assert numbers(history.after(0, "web")) == [1, 3]
    assert numbers(history.after(1, "web")) == [3]
    assert numbers(history.after(0, "nobody")) == []
    assert numbers(history.after(0)) == [1, 2, 3, 4]


def test_what_became_of_it_is_added_when_it_ends_even_if_it_made_room() -> None:
    clock = Clock()
    history = History(most=1, clock=clock)
    inputs = {"desired": 2}
    entry = history.add("activity", "web", "launch i-1", "why", inputs)
    inputs["desired"] = 3
    assert (entry.at, entry.outcome, entry.ended, entry.inputs) == (
        1000.0,
        "",
        None,
        {"desired": 2},
    )
    clock.now = 1002.5
    history.end(entry, "in service")
    [found] = history.after(0)
    assert (found.outcome, found.ended, found.number) == ("in service", 1002.5, 1)
    history.add("activity", "web", "launch i-2", "why")
    history.end(entry, "ended")
    assert numbers(history.after(0)) == [2]


def test_an_entry_is_plain_enough_for_json() -> None:
    entry = History(clock=Clock()).add("health", "web", "what", "why", {"a": [1, None]}, "outcome")
    assert json.loads(json.dumps(entry.plain())) == {
        "number": 1,
        "at": 1000.0,
        "kind": "health",
        "subject": "web",
        "what": "what",
        "cause": "why",
        "inputs": {"a": [1, None]},
        "outcome": "outcome",
        "ended": None,
    }


def test_who_waits_is_woken_by_each_entry_and_by_each_end() -> None:
    async def scenario() -> None:
        history = History()
        entry = history.add("activity", "web", "what", "why")
        for act in (
            lambda: history.add("activity", "web", "what", "why"),
            lambda: history.end(entry, "done"),
        ):
            waiting = [asyncio.create_task(history.wait(30.0)) for _ in range(3)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
            act()
            act()
            async with asyncio.timeout(5):
                await asyncio.gather(*waiting)
        assert not history._waiting

    asyncio.run(scenario())


def test_nobody_waits_longer_than_asked_or_after_a_cancel() -> None:
    async def scenario() -> None:
        history = History()
        async with asyncio.timeout(5):
            await history.wait(0.01)
            await history.wait(0.0)
        task = asyncio.create_task(history.wait(30.0))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert not history._waiting
        history.add("activity", "web", "what", "why")

    asyncio.run(scenario())


def test_a_successor_reads_what_was_and_numbers_on(tmp_path: Path) -> None:
    file = tmp_path / "activities.jsonl"
    first = History(file, clock=lambda: 1.0)
    ended = first.add("activity", "web", "launch i-1", "started", {"version": 1})
    first.end(ended, "in service")
    first.add("activity", "web", "launch i-2", "started")
    first.add("scaling", "web", "policies", "nothing to do")
    with file.open("a") as torn:
        torn.write('{"number": 9, "at"')
    second = History(file)
    assert [(one.number, one.outcome) for one in second.after(0)] == [
        (1, "in service"),
        (2, "not seen to its end: the supervisor was replaced"),
        (3, ""),
    ]
    assert second.add("activity", "web", "launch i-3", "").number == 4
    assert file.stat().st_mode & 0o777 == 0o600
    second.forget()
    assert not file.exists()
    assert History(file).after(0) == []


def test_the_file_is_bounded_and_its_loss_costs_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "decisions.jsonl"
    history = History(file, most=5)
    for number in range(100):
        history.add("routing", "web", f"n{number}", "")
        assert len(file.read_text().splitlines()) <= 20
    assert [one.what for one in History(file, most=5).after(0)][-1] == "n99"
    gone = History(tmp_path / "absent" / "decisions.jsonl")
    gone.add("routing", "web", "one", "")
    assert len(gone.after(0)) == 1
