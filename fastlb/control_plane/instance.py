"""What of an instance is looked at, to be told to an operator. Knows nothing of who looks."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Protocol

from fastlb.control_plane.listener_columns import ListenerColumns
from fastlb.control_plane.operator_overrides import OperatorOverrides
from fastlb.control_plane.scaling import Scaling
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.control_plane.totals import Totals
from fastlb.control_plane.worker_pool import Worker
from fastlb.model.configuration import Configuration
from fastlb.target_table.counters import Counters


class Instance(Protocol):
    """One supervisor's, as of now."""

    @property
    def configuration(self) -> Configuration: ...
    @property
    def registry(self) -> TargetRegistry: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def totals(self) -> Totals: ...
    @property
    def columns(self) -> ListenerColumns: ...
    @property
    def scaling(self) -> Scaling: ...
    @property
    def overrides(self) -> OperatorOverrides: ...
    @property
    def workers(self) -> Sequence[Worker]: ...
    @property
    def slots(self) -> tuple[int, ...]: ...
    @property
    def hung(self) -> Set[int]:
        """Indexes of workers that do not beat."""
        ...

    @property
    def draining(self) -> bool: ...
