"""Who is in charge of the instance: from taking it over to passing it on.

A supervisor that takes over from a living one is not in charge before its own workers are ready: until
then everything it does must leave the instance as it was if it ends. One that passes it on is in charge
until then. Puts together what `predecessor`, `successor` and `upgrade` do with what the supervisor has,
and tells the service manager. Knows no request and no target's state.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fastlb.control_plane.activation import assign_passed, let_in_again
from fastlb.control_plane.control_socket import Answer, Command, ControlSocket
from fastlb.control_plane.inherited_totals import InheritedTotals, export
from fastlb.control_plane.left_behind import prepare_to_stay
from fastlb.control_plane.listen_sockets import ListenSockets
from fastlb.control_plane.listener_columns import ListenerColumns
from fastlb.control_plane.predecessor import Estate, Predecessor
from fastlb.control_plane.run_dir import TAKEOVER, RunDir
from fastlb.control_plane.service_manager import ServiceManager
from fastlb.control_plane.successor import Succession
from fastlb.control_plane.takeover import (
    Inheritance,
    newborns_end,
    take_over,
    take_over_from_living,
)
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.control_plane.totals import Totals
from fastlb.control_plane.upgrade import Upgrade
from fastlb.control_plane.worker_pool import WorkerPool
from fastlb.control_plane.zombies import FIRST_PROCESS
from fastlb.errors import FastlbError
from fastlb.model.listener import Listener
from fastlb.target_table.counters import Counters
from fastlb.target_table.handover import last_snapshot, listener_key
from fastlb.target_table.layout import TargetEntry
from fastlb.target_table.writer import TableWriter

log = logging.getLogger("fastlb.takeover")

WANTED_FOR = 2.0
"""Seconds for which a worker's word that it holds requests is passed on: it says so each second."""
ASKED_WITHIN = 3.0
ASK_AGAIN = 0.1
"""Seconds; one that is just starting hands over as soon as its workers are ready."""
READING = ("status", "activity", "why", "upgrade_outcome")
"""Commands that change nothing, and are answered while another supervisor takes over."""


@dataclass(frozen=True, slots=True)
class Belongings:
    """What is passed on, and who acts on it."""

    run_dir: RunDir
    sockets: ListenSockets
    writer: TableWriter
    counters: Counters
    totals: Totals
    registry: TargetRegistry
    columns: ListenerColumns
    pool: WorkerPool
    control: ControlSocket
    leave_instances: Callable[[], Awaitable[None]]
    lead_instances_again: Callable[[], None]
    stopping: Callable[[], bool]


class Tenure:
    """`arguments` are those of `fastlb run`, for an upgrade; None where there are none."""

    def __init__(
        self,
        name: str,
        *,
        takes_over: bool,
        arguments: Sequence[str] | None,
        manager: ServiceManager,
        passed: Sequence[tuple[str, socket.socket]] = (),
    ) -> None:
        self._name = name
        self._takes_over = takes_over
        self._arguments = arguments
        self._manager = manager
        self._passed = passed
        self._predecessor: Predecessor | None = None
        self._estate: Estate | None = None
        self._inherited: InheritedTotals | None = None
        self._kept: list[socket.socket] = []
        """Those that the service manager has too."""
        self._kept_keys: set[str] = set()
        self._above = False
        """Somebody stays whose pid is the one that is watched."""
        self._wanted: dict[str, float] = {}
        self.heir = 0
        """The pid of who took over from us."""
        self._own: Belongings | None = None
        self._succession: Succession | None = None
        self._upgrade: Upgrade | None = None
        self.in_charge = False
        """Whether our end is the instance's."""
        self.asking = False
        """Whether the other supervisor was told that we are ready, so that its answer counts."""

    # -- to take over

    async def begin(self) -> RunDir:
        """Take the name: from the living supervisor, where we are to take over from one. Raises
        FastlbError."""
        deadline = time.monotonic() + ASKED_WITHIN
        while True:
            if self._takes_over:
                self._predecessor = await asyncio.to_thread(Predecessor.ask, self._name)
            if self._predecessor is not None:
                run_dir, self._estate = await asyncio.to_thread(self._predecessor.take)
                return run_dir
            try:
                run_dir = RunDir.take(self._name)
                break
            except FastlbError as error:
                if not self._takes_over:
                    raise
                if time.monotonic() > deadline:
                    raise FastlbError(f"{error}; it does not hand over to another") from error
                await asyncio.sleep(ASK_AGAIN)  # it may be starting itself
        if self._takes_over:
            log.warning("no instance named %s is running: nobody to take over from", self._name)
        self.in_charge = True
        return run_dir

    async def inherit(self, run_dir: RunDir, listeners: tuple[Listener, ...]) -> Inheritance:
        """What is there of the instance already; sockets by the keys of the configured `listeners`."""
        if self._estate is None:
            left = await asyncio.to_thread(take_over, run_dir, listeners)
            alone = not left.sockets
            for key, sockets in assign_passed(listeners, self._passed).items():
                self._keep(key, sockets)
                if left.sockets.get(key):  # of workers that live: the same, and more
                    for one in sockets:
                        one.close()
                else:
                    left.sockets[key] = sockets
            if run_dir.abandoned and alone:
                missing = (one for one in listeners if listener_key(one) not in left.sockets)
                await newborns_end(missing)
            return left
        estate = self._estate
        keys = [listener_key(one) for one in listeners]
        alike = next((key for key in keys if keys.count(key) > 1), None)
        if alike is not None:
            raise FastlbError(
                f"several listeners are {alike}: which of them has which port cannot be told, so that "
                "they cannot be taken over; give them ports"
            )
        real = estate.concrete(listeners)
        entries, columns = _counted(estate)
        left = await asyncio.to_thread(take_over_from_living, run_dir, estate, real)
        for key in estate.words.get("kept", ()):
            self._keep(str(key), left.sockets.get(str(key), ())[:1])
        for asked, has in zip(listeners, real, strict=True):
            found = left.sockets.pop(listener_key(has), None)
            if found is not None:
                left.sockets[listener_key(asked)] = found
        rows = int(estate.words.get("rows", 0))
        self._inherited = InheritedTotals(Counters(estate.counters), rows, entries, columns)
        return left

    def _keep(self, key: str, sockets: Sequence[socket.socket]) -> None:
        self._kept_keys.add(key)
        self._kept += [one.dup() for one in sockets]

    async def take_charge(self) -> Collection[str]:
        """Ours are ready: become who is in charge; the target groups that requests are held for. Raises
        FastlbError where the other one goes on."""
        own = self._own
        assert own is not None
        held: Collection[str] = ()
        if self._predecessor is not None:
            self.asking = True
            words = await self._predecessor.take_charge()
            held = [str(one) for one in words.get("wanted", ())]
            self._above = bool(words.get("remains"))
            self.in_charge = True
            own.run_dir.sign()
            if self._inherited is not None:
                try:
                    self._inherited.add_dead(words.get("dead", {}))
                except (KeyError, TypeError, ValueError) as error:
                    log.error("the totals before the takeover are not understood: %r", error)
                own.totals.before = self._inherited
        assert self._succession is not None
        if self._predecessor is not None:
            await own.control.start()
        self._succession.start()
        self._manager.ready(replaces=self._predecessor is not None)
        if self._predecessor is not None:
            log.warning("in charge of the instance, after pid %d", self._predecessor.pid)
            self._predecessor.close()
            self._predecessor = None
        return held

    def orphans_ended(self) -> None:
        """Nobody counts in the other supervisor's memory any more."""
        if self.in_charge and self._inherited is not None:
            self._inherited.fold()

    # -- in between

    def settle(self, own: Belongings, cleanup: AsyncExitStack) -> dict[str, Command]:
        """All parts are made; the commands about upgrades."""
        self._own = own
        self._succession = Succession(own.run_dir.path / TAKEOVER, self)
        self._succession.remains = lambda: self._above or self.stays
        self._upgrade = Upgrade(self._succession, self._arguments)
        cleanup.push_async_callback(self._succession.close)
        cleanup.push_async_callback(self._upgrade.close)
        return {"upgrade": self._upgrade.answer, "upgrade_outcome": self._upgrade.outcome}

    def guarded(self, commands: Mapping[str, Command]) -> dict[str, Command]:
        """The same, and those that change something are refused while another one takes over."""

        def guard(command: Command) -> Command:
            def guarded(request: Mapping[str, Any]) -> Answer | Awaitable[Answer]:
                if self.passing_on:
                    raise ValueError("the instance is being upgraded: ask again in a moment")
                return command(request)

            return guarded

        return {
            name: command if name in READING else guard(command)
            for name, command in commands.items()
        }

    @property
    def passing_on(self) -> bool:
        """Whether the workers of another supervisor come up beside ours: they are no orphans."""
        return self._succession is not None and self._succession.under_way

    @property
    def present(self) -> bool:
        """Whether a new supervisor would find us, once we are to be found."""
        assert self._succession is not None
        return self._succession.present or not self._succession.started

    async def renew(self) -> None:
        """The file was removed."""
        assert self._succession is not None
        if not self.present:
            await self._succession.close()
            self._succession.start()

    def wanted(self, target_group: str) -> None:
        """A worker holds requests for it."""
        if self.passing_on:
            self._wanted[target_group] = time.monotonic()

    def close(self) -> None:
        """The last: nobody of ours accepts any more."""
        for one in self._kept:
            if self.in_charge:
                let_in_again(one)
            one.close()
        if self._predecessor is not None:
            self._predecessor.close()
        if self._inherited is not None:
            self._inherited.fold()

    def failed(self, why: str) -> None:
        """We end before we were in charge."""
        if self._predecessor is not None and not self.in_charge:
            self._predecessor.fail(why)

    # -- to pass on

    @property
    def over(self) -> asyncio.Event:
        """Set when the instance is another supervisor's."""
        assert self._succession is not None
        return self._succession.over

    @property
    def stays(self) -> bool:
        """Whether our process must stay when it has handed over: whoever started it watches its pid."""
        if os.getpid() == FIRST_PROCESS:
            return True
        started = self._upgrade is not None and self._upgrade.pid != 0
        return started and not self._above and not self._manager.there

    async def break_off(self) -> None:
        """The instance is to stop: whoever takes over is ended first, or told where it has."""
        assert self._succession is not None
        await self._succession.break_off("the instance is to stop")
        if not self.heir and self._upgrade is not None:
            await self._upgrade.call_off("the instance is to stop")
        if self.heir and self._succession.heir_lives:
            log.info("pid %d is to stop", self.heir)
            os.kill(self.heir, signal.SIGTERM)

    def see_heir(self) -> None:
        """Raises FastlbError where who took over has died in that moment: then nobody is in charge, and
        whoever starts us should do so again."""
        if self._succession is not None and not self._succession.heir_lives:
            raise FastlbError(
                f"pid {self.heir} died as it took over; the workers go on, and the next start takes over"
            )

    def why_not(self, pid: int) -> str:
        assert self._own is not None
        assert self._upgrade is not None
        if not self.in_charge:
            return "it has not taken over itself yet"
        if self._own.stopping():
            return "it is stopping"
        if self._manager.there and pid != self._upgrade.pid:
            return (
                "it belongs to a service manager, for which the new one must be its child: "
                "use `fastlb upgrade`"
            )
        return ""

    async def freeze(self) -> tuple[dict[str, Any], list[int]]:
        own = self._own
        assert own is not None
        self._manager.reloading()
        self._wanted.clear()
        await own.leave_instances()
        listeners = zip(own.sockets.given, own.sockets.listeners, strict=True)
        words = {
            "listeners": {key: len(sockets) for key, sockets in own.sockets.sockets.items()},
            "asked": [(listener_key(given), listener_key(real)) for given, real in listeners],
            "rows": own.totals.rows,
            "kept": sorted(self._kept_keys),
        }
        given = [own.writer.fd, own.counters.fd]
        given += [one.fileno() for all in own.sockets.sockets.values() for one in all]
        return words, [own.run_dir.duplicate_lock(), *(os.dup(fd) for fd in given)]

    async def take_back(self, why: str) -> None:
        assert self._own is not None
        self._own.run_dir.sign()
        self._own.lead_instances_again()
        self._manager.ready()

    def hand_over(self, pid: int) -> dict[str, Any]:
        own = self._own
        assert own is not None
        self.heir = pid
        self.in_charge = False
        if self.stays:
            prepare_to_stay()
        own.pool.abandon()
        since = time.monotonic() - WANTED_FOR
        addresses = {(one.group, one.address) for one in own.registry.entries()}
        return {
            "dead": export(own.totals, self._inherited, addresses, own.columns.items()),
            "wanted": [name for name, at in self._wanted.items() if at >= since],
        }


def _counted(estate: Estate) -> tuple[tuple[TargetEntry, ...], tuple[tuple[str, int], ...]]:
    """What has columns in the other supervisor's counters: targets, and listeners by their keys."""
    try:
        found = last_snapshot(estate.given.table)
    except ValueError:
        return (), ()
    return (found.targets, found.listener_columns) if found is not None else ((), ())
