"""fastlb with a configuration file that a test writes anew and has reloaded."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.fastlb import FastlbProcess
from tests.support.scaling import Refused, ask, toml


def group(name: str, targets: Iterable[object], **settings: Any) -> str:
    """A target group as TOML; a target is an address, or a table."""
    lines = [f"[target_groups.{name}]"]
    shown = [one if isinstance(one, dict) else str(one) for one in targets]
    lines += [f"{key} = {toml(value)}" for key, value in ({"targets": shown} | settings).items()]
    return "\n".join(lines) + "\n"


def listener(address: str, default: object = "web", *rules: dict[str, Any], **settings: Any) -> str:
    """A listener as TOML; `default` is a group's name, or an action as a table."""
    action = default if isinstance(default, dict) else {"forward": default}
    lines = ["[[listeners]]", f"address = {toml(address)}", f"default = {toml(action)}"]
    lines += [f"{key} = {toml(value)}" for key, value in settings.items()]
    for rule in rules:
        lines += ["[[listeners.rules]]"]
        lines += [f"{key} = {toml(value)}" for key, value in rule.items()]
    return "\n".join(lines) + "\n"


class ReloadedFastlb(FastlbProcess):
    """`fastlb run --config FILE`, the file being the parts put together."""

    def __init__(self, root: Path, *parts: str, flags: Iterable[str] = (), **options: Any) -> None:
        self.config = root / f"reload-{os.urandom(4).hex()}.toml"
        self.write(*parts)
        options = {"listen": (), "workers": None} | options
        super().__init__(root, "--config", str(self.config), *flags, **options)

    def write(self, *parts: str) -> None:
        self.config.write_text("".join(parts))

    def reload(self, *parts: str, **fields: Any) -> list[str]:
        """Write the file where parts are given, and reload; what changed. Raises Refused."""
        if parts:
            self.write(*parts)
        answer = ask(self.run_dir / self.name, "reload", **fields)
        if "error" in answer:
            raise Refused(answer["error"])
        assert answer["late"] == [], answer
        changed: list[str] = answer["changed"]
        return changed
