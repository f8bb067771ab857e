"""What the target table says: the configuration as workers read it, targets, slots, sockets.

Puts it together from those who know; when it is published is `publication`'s.
"""

from __future__ import annotations

from fastlb.control_plane.listen_sockets import ListenSockets
from fastlb.control_plane.listener_columns import ListenerColumns
from fastlb.control_plane.scaling import with_holds
from fastlb.control_plane.slot_keeping import SlotKeeper
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.control_plane.worker_pool import WorkerPool
from fastlb.model.configuration import Configuration
from fastlb.target_table.handover import listener_key
from fastlb.target_table.layout import Snapshot


class TableContent:
    """Of one configuration at a time; `use` goes over to another."""

    def __init__(
        self,
        configuration: Configuration,
        sockets: ListenSockets,
        registry: TargetRegistry,
        slots: SlotKeeper,
        pool: WorkerPool,
        columns: ListenerColumns,
    ) -> None:
        self._sockets = sockets
        self._registry = registry
        self._slots = slots
        self._pool = pool
        self._columns = columns
        self._config_id = 0
        self.use(configuration)

    def use(self, configuration: Configuration) -> None:
        """The next snapshot says this configuration. Its listeners have their sockets already."""
        self._config_id += 1
        self._for_workers = with_holds(configuration)
        keys = [listener_key(one) for one in configuration.listeners]
        self._bindings = tuple(self._sockets.bindings[key] for key in keys)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            self._for_workers,
            self._config_id,
            self._registry.entries(),
            self._slots.slots,
            self._bindings,
            self._pool.rows,
            self._columns.items(),
        )
