"""`fastlb reload`, SIGHUP and `--watch`: one reload after the other, each whole or not at all.

The new configuration is read, checked and prepared before anything changes; what then changes a
living instance is `reconfiguration`'s. How a file is read, and how differences are said, is handed in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fastlb.control_plane.wording import count_of
from fastlb.errors import FastlbError
from fastlb.model.configuration import Configuration

log = logging.getLogger("fastlb")

SAID = 8
"""Changes of one reload that the history of decisions names."""
LIVE = frozenset(
    {
        *("listeners", "target_groups", "auto_scaling_groups", "admin"),
        *("workers", "max_connections", "drain_timeout"),
        *("access_log", "access_log_format", "log_level", "watch"),
    }
)
"""The fields of a Configuration that change under a living instance. A new one is refused until
somebody has seen to it that it can, and has named it here."""


@dataclass(frozen=True, slots=True)
class Given:
    """What was read: `configuration` with the flags of the start, `of_file` what the file alone says."""

    configuration: Configuration
    of_file: Configuration


Says = Callable[[Configuration, Configuration], list[str]]
"""What differs between two of them, a line for each."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the configuration comes from. `load` reads it and raises FastlbError; `at_start` is what it
    gave then; `differences` says what differs, and `overridden` what differs in the file alone and is
    not used, since the command line says otherwise; `path` is the file to watch."""

    at_start: Given
    load: Callable[[], Given]
    differences: Says
    overridden: Says
    path: Path | None = None


class Prepared(Protocol):
    """A change that is checked, and for which everything is bound that it needs."""

    def close(self) -> None:
        """Nothing comes of it."""


P = TypeVar("P", bound=Prepared)


class Live(Protocol[P]):
    """The instance, as far as a reload changes it."""

    @property
    def lock(self) -> asyncio.Lock:
        """Held while something changes."""

    @property
    def stopping(self) -> bool: ...

    async def prepare(self, configuration: Configuration) -> P:
        """Raises FastlbError where it cannot be; then nothing has changed."""

    def apply(self, prepared: P) -> list[str]:
        """In one go: nobody sees a half. What changed beside the configuration, such as a file that it
        names, by key path."""

    async def in_force(self) -> list[str]:
        """Wait until all workers act on what was applied; who does not, a sentence each."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What differs, or would; what differs in the file and is not used; who does not act on it in
    time; and whether it was only asked for."""

    changed: list[str]
    overridden: list[str]
    late: list[str]
    dry_run: bool

    def lines(self) -> list[str]:
        return [*self.changed, *self.overridden, *self._last_line()]

    def _last_line(self) -> list[str]:
        count = count_of(len(self.changed), "change")
        if not self.changed:
            return ["nothing has changed"]
        if self.dry_run:
            return [f"{count}, not applied"]
        return [] if self.late else [f"{count} in force"]


class Reload:
    """Knows what was given last. `not_in_force` tells what is configured and not what is used,
    since it was rolled back; `under_way` is entered while a reload is; `told` hears what changed."""

    def __init__(
        self,
        source: Source | None,
        live: Live[Any],
        not_in_force: Callable[[], list[str]] = list,
        under_way: Callable[[], AbstractContextManager[None]] = nullcontext,
        told: Callable[[str], None] = lambda changes: None,
    ) -> None:
        self._source = source
        self._given: Given | None = None
        self._live = live
        self._not_in_force = not_in_force
        self._under_way = under_way
        self._told = told
        self._tasks: set[asyncio.Task[Any]] = set()
        self._signalled: asyncio.Task[None] | None = None

    async def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """To the command `reload`; with `dry_run` only what would change."""
        dry_run = request.get("dry_run", False)
        if not isinstance(dry_run, bool):
            raise ValueError(f"dry_run: expected true or false, got {dry_run!r}")
        # In a task of its own: whoever waits no longer must not cut it in the middle.
        outcome = await asyncio.shield(self._keep(self._by_command(dry_run=dry_run)))
        left = self._not_in_force()
        return {
            "said": "\n".join([*outcome.lines(), *left]),
            "changed": outcome.changed,
            "late": outcome.late,
            "not_in_force": left,
        }

    async def _by_command(self, *, dry_run: bool) -> Outcome:
        try:
            outcome = await self.reload(dry_run=dry_run)
        except ValueError as error:
            log.warning("a reload was refused: %s", error)
            raise
        if not dry_run:
            _log(outcome)
        return outcome

    def signalled(self) -> asyncio.Task[None]:
        """SIGHUP, or a changed file, is `fastlb reload`, told in the log. Several that wait are one."""
        if self._signalled is None or self._signalled.done():
            self._signalled = self._keep(self.and_tell())
        return self._signalled

    async def and_tell(self) -> None:
        """Reload, and say in the log what came of it."""
        self._signalled = None  # what is asked for from now on, this one may have missed
        try:
            outcome = await self.reload()
        except ValueError as error:
            log.error("the configuration stays as it is: %s", error)
            return
        except Exception:
            log.exception("the reload could not go on")
            return
        _log(outcome)

    async def reload(self, *, dry_run: bool = False) -> Outcome:
        """What changed. Raises ValueError where it cannot be: then nothing has."""
        source = self._source
        if source is None:
            raise ValueError("this instance has no configuration that could be read anew")
        async with self._live.lock:
            with self._under_way() if not dry_run else nullcontext():
                return await self._reload(source, dry_run)

    async def _reload(self, source: Source, dry_run: bool) -> Outcome:
        before = self._given or source.at_start
        try:
            self._refuse_while_stopping()
            found = await asyncio.to_thread(source.load)
            refuse_fixed(before.configuration, found.configuration)
            changed, overridden = await asyncio.to_thread(_compare, source, before, found)
            prepared = await self._live.prepare(found.configuration)
            try:
                self._refuse_while_stopping()
                if not dry_run:
                    beside = self._live.apply(prepared)
                    changed += [
                        f"{path}: changed"
                        for path in beside
                        if not any(line.startswith(f"{path}:") for line in changed)
                    ]
                    self._given = found
                    if changed:
                        more = f"; and {len(changed) - SAID}" if len(changed) > SAID else ""
                        self._told("; ".join(changed[:SAID]) + more)
            finally:
                prepared.close()
        except FastlbError as error:
            raise ValueError(str(error)) from None
        late = [] if dry_run else await self._live.in_force()
        return Outcome(changed, overridden, late, dry_run)

    def _refuse_while_stopping(self) -> None:
        if self._live.stopping:
            raise FastlbError(
                "this instance is stopping, or passed on to another supervisor: nothing was changed"
            )

    def _keep(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """At the end of the instance: what is under way is given up."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))


def _compare(source: Source, old: Given, new: Given) -> tuple[list[str], list[str]]:
    return (
        source.differences(old.configuration, new.configuration),
        source.overridden(old.of_file, new.of_file),
    )


def _log(outcome: Outcome) -> None:
    for line in outcome.lines():
        log.info("reload: %s", line)
    for line in outcome.late:
        log.error("reload: %s", line)


def refuse_fixed(old: Configuration, new: Configuration) -> None:
    """Raise FastlbError where something differs that cannot change under a living instance."""
    barred = [
        name
        for name in old.__dataclass_fields__
        if name not in LIVE and getattr(old, name) != getattr(new, name)
    ]
    if barred:
        raise FastlbError(
            f"{', '.join(barred)}: cannot change while it runs: stop this instance and start it anew, "
            "or leave it as it was. Nothing was changed"
        )
