"""Who leads the Instances: this supervisor, the one that takes over from it, or this one again.

Makes the auto scaling groups and their commands, and gives the Instances away while another supervisor
tries. Two must never lead at once.
"""

from __future__ import annotations

from collections.abc import Callable

from fastlb.control_plane.control_socket import Command
from fastlb.control_plane.foundation import Foundation
from fastlb.control_plane.run_dir import RunDir
from fastlb.control_plane.scaling import Scaling
from fastlb.control_plane.target_commands import TargetCommands
from fastlb.control_plane.target_registry import tell_nobody
from fastlb.control_plane.tenure import Tenure
from fastlb.control_plane.used_groups import used_groups
from fastlb.model.configuration import Configuration


class Leadership:
    """`scaling` is the groups as they are led now, or were last. `commands` are the instance's, to which
    those of the groups and targets are added."""

    def __init__(
        self,
        base: Foundation,
        run_dir: RunDir,
        tenure: Tenure,
        configuration: Callable[[], Configuration],
        commands: dict[str, Command],
    ) -> None:
        self._base = base
        self._run_dir = run_dir
        self._tenure = tenure
        self._configuration = configuration
        self._commands = commands
        self.scaling = self._begin()

    def _begin(self) -> Scaling:
        """The auto scaling groups, with the Instances that are there; they act from their start on."""
        base, given = self._base, self._configuration()
        scaling = Scaling(
            given, used_groups(given), self._run_dir, base.targets, base.parts.strangers
        )
        base.registry.told = scaling.told
        of_targets = TargetCommands(
            base.parts,
            base.targets,
            base.departures,
            base.overrides,
            scaling,
            lambda: self._configuration().drain_timeout,
        )
        commands: dict[str, Command] = {**scaling.commands.by_name, **of_targets.by_name}
        self._commands |= self._tenure.guarded(commands)
        scaling.adopt()
        return scaling

    async def leave(self) -> None:
        """Another supervisor leads them from now on, and writes their histories."""
        self._base.registry.told = tell_nobody
        await self.scaling.leave()

    def lead_again(self) -> None:
        """That supervisor has failed. It may have launched or lost some."""
        registry = self._base.registry
        health = {(one.group, one.address): (one.state, one.epoch) for one in registry.entries()}
        self.scaling.deregister_all()
        self.scaling = self._begin()
        registry.seed(health)
        self.scaling.start()

    async def end(self) -> None:
        """At the end of this supervisor, however it comes."""
        if self._tenure.in_charge:
            await self.scaling.kill()
        elif not self._tenure.heir:
            await self.scaling.leave()
