"""What a supervisor that takes over must know, kept as files in the run-time folder.

    i-<id>.json         one an Instance: pid, start time, address, life cycle state
    i-<id>/             its folder, 0700 of its user: the unix socket is in it
    i-<id>.log, .read   what it printed (see `output`)
    group-<name>.json   one a group: desired capacity, launch templates and which of them is proven or was
                        rolled back, what is suspended, a refresh

Written whole and renamed into place, so that a supervisor that is killed leaves the old or the new
file and never a half. The folder is open to the instance's owner alone; templates hold secrets.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.plain import from_plain, to_plain

log = logging.getLogger("fastlb.scaling")

_ID = re.compile(r"i-[0-9a-f]{8}")
LifeCycle = Literal["pending", "in_service", "standby", "terminating", "terminated"]
SOCKET = "app.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """One Instance. Times are CLOCK_MONOTONIC, which all processes of a boot share."""

    id: str
    group: str
    version: int
    state: LifeCycle
    address: str
    pid: int = 0
    """0 between the decision to launch and the process: whoever adopts looks for its mark then."""
    started: int = 0
    """The process's start time in ticks since boot."""
    launched_at: float = 0.0
    in_service_at: float | None = None
    protected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """What a group knows beside its Instances and its configuration."""

    desired: int
    version: int
    """Of the launch template in force."""
    configured: int
    """Of the one that the configuration names; another one where a refresh was rolled back."""
    proven: int = 0
    """Of the one that launches use outside a refresh; 0 while none has shown that it works."""
    newest: int
    templates: dict[int, LaunchTemplate]
    rolled_back: dict[int, str] = field(default_factory=dict)
    """Why a version was left again."""
    suspended: tuple[str, ...] = ()
    refresh: dict[str, Any] | None = None


class Records:
    """The files of all groups of one instance of fastlb."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports: dict[str, int] = {}

    # -- instances

    def instances(self) -> list[InstanceRecord]:
        """All that are recorded; one that cannot be read is reported and left out."""
        found = []
        for path in sorted(self.folder.glob("i-*.json")):
            try:
                raw = json.loads(path.read_text())
                names = {item.name for item in fields(InstanceRecord)}
                found.append(InstanceRecord(**{key: raw[key] for key in raw if key in names}))
            except (OSError, ValueError, TypeError) as error:
                log.error("the record %s of an instance cannot be read: %s", path, error)
        return found

    def strays(self) -> list[str]:
        """The ids of Instances that left files and no record that can be read: a supervisor was killed
        in the midst of their launch, or the disk was full."""
        known = {one.id for one in self.instances()}
        names = {path.name.lstrip(".").split(".")[0] for path in self.folder.glob("*i-*")}
        return sorted(name for name in names - known if _ID.fullmatch(name))

    def save(self, record: InstanceRecord) -> bool:
        """Whether it could be written."""
        port = record.address.rpartition(":")[2]
        if port.isdigit():
            self._ports[record.id] = int(port)
        plain = {item.name: getattr(record, item.name) for item in fields(record)}
        return self._write(f"{record.id}.json", plain)

    def ports(self) -> set[int]:
        """Those that were given to living Instances of all groups."""
        return set(self._ports.values())

    def forget(self, id: str) -> None:
        """Remove everything of an Instance that is gone: record, output and folder. Raises nothing."""
        self._ports.pop(id, None)
        for path in (self.folder / id, *self.folder.glob(f"{id}.*"), *self.folder.glob(f".{id}.*")):
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.error("%s cannot be removed: %s", path, error.strerror or error)

    def socket_folder(self, id: str) -> Path:
        return self.folder / id

    def spool(self, id: str) -> Path:
        """Where the Instance's output goes first."""
        return self.folder / f"{id}.log"

    # -- groups

    def group(self, name: str) -> GroupRecord | None:
        path = self.folder / f"group-{name}.json"
        try:
            raw = json.loads(path.read_text())
            templates = {
                int(number): from_plain(LaunchTemplate, plain)
                for number, plain in raw.pop("templates").items()
            }
            suspended = tuple(raw.pop("suspended"))
            rolled_back = {
                int(number): str(why) for number, why in raw.pop("rolled_back", {}).items()
            }
            return GroupRecord(
                **raw, templates=templates, rolled_back=rolled_back, suspended=suspended
            )
        except FileNotFoundError:
            return None
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            log.error("the record %s of a group cannot be read, it begins anew: %s", path, error)
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # Not what is wrong with it: that would name a template's secrets.
            log.error(
                "the record %s of a group cannot be read, it begins anew: "
                "it is not of the shape that this release writes (%s)",
                path,
                type(error).__name__,
            )
            return None

    def save_group(self, name: str, record: GroupRecord) -> None:
        plain = {item.name: getattr(record, item.name) for item in fields(record)}
        plain["templates"] = {
            str(number): to_plain(template) for number, template in record.templates.items()
        }
        self._write(f"group-{name}.json", plain)

    def forget_group(self, name: str) -> None:
        """The group is configured no more: one of its name begins anew."""
        (self.folder / f"group-{name}.json").unlink(missing_ok=True)

    def forget_groups(self) -> None:
        """After a clean stop: the next start begins with what is configured."""
        for path in (*self.folder.glob("group-*.json"), *self.folder.glob(".group-*.new")):
            path.unlink(missing_ok=True)

    def _write(self, name: str, plain: dict[str, Any]) -> bool:
        """Raises nothing: a full disk must not end a supervisor, and is said in the log."""
        temporary = self.folder / f".{name}.new"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
                json.dump(plain, file)
            os.replace(temporary, self.folder / name)
            return True
        except OSError as error:
            log.error(
                "%s cannot be written, a takeover would not know of it: %s",
                self.folder / name,
                error.strerror or error,
            )
            return False
