"""What a supervisor looks after each second while nothing happens: the run-time folder is ours, and who
else has come up in it? The service manager is told how it goes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from fastlb.control_plane.administration import Administration
from fastlb.control_plane.control_socket import ControlSocket
from fastlb.control_plane.orphans import Orphans
from fastlb.control_plane.reconfiguration import Reconfiguration
from fastlb.control_plane.run_dir import RunDir
from fastlb.control_plane.tenure import Tenure
from fastlb.control_plane.zombies import Reaper
from fastlb.errors import FastlbError

log = logging.getLogger("fastlb")

HOUSEKEEPING = 1.0
"""Time between two looks at the run-time folder."""


@dataclass(slots=True)
class Housekeeping:
    """`save` writes anew what the folder keeps of instances and overrides; `tell` is for the service
    manager; `end_orphans` ends whoever serves with the table of a supervisor before us, if that may be."""

    run_dir: RunDir
    tenure: Tenure
    control: ControlSocket
    admin: Administration
    orphans: Orphans
    live: Reconfiguration
    reaper: Reaper | None
    save: Callable[[], None]
    tell: Callable[[], None]
    end_orphans: Callable[[], None]
    _trouble: str = ""

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            try:
                await self._keep_folder()
                self._trouble = ""
            except (OSError, FastlbError) as error:
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    log.error("the run-time folder cannot be made anew: %s", error)
            if self.tenure.in_charge:
                self.tell()
            if self.reaper is not None:
                self.reaper.look()
            if self.tenure.passing_on:
                continue  # the workers that come up are no orphans
            await self.orphans.look_round()
            self.end_orphans()
            if not self.orphans.living:
                self.tenure.orphans_ended()
            await self.live.look_round()

    async def _keep_folder(self) -> None:
        """A cleaner of /tmp or an `rm` may take the folder from under a running instance."""
        if not self.tenure.in_charge or self.tenure.passing_on:
            return
        present = self.control.present and self.tenure.present
        if self.run_dir.intact and present:
            if self.admin.keep():
                log.warning("the admin socket in %s was removed: made anew", self.run_dir.path)
            return
        if not self.run_dir.intact:
            self.run_dir.renew()
            self.save()
        if not self.control.present:
            await self.control.close()
            await self.control.start()
        await self.tenure.renew()
        self.admin.keep()
        log.warning("files of the run-time folder %s were removed: made anew", self.run_dir.path)
