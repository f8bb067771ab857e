"""The flags that configure: made from the model's settings, turned into a Configuration.

Knows where in `--help` a flag stands; its name, unit, default and reason stand on the model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import Field, replace
from pathlib import Path
from typing import Any

from fastlb.config import Loaded, Overrides, load
from fastlb.config.overrides import SETTING_CLASSES
from fastlb.config.syntax import not_utf8
from fastlb.config.write_values import to_flag_text
from fastlb.errors import ConfigError
from fastlb.model.settings import Kind, Setting, declared, default_of

GROUPS: dict[str, tuple[str, ...]] = {
    "listeners and targets": ("--algorithm", "--trusted-proxies", "--retries"),
    "health": (
        "--health-path",
        "--health-interval",
        "--health-timeout",
        "--healthy-threshold",
        "--unhealthy-threshold",
        "--health-matcher",
        "--health-check",
    ),
    "timeouts": (
        "--connect-timeout",
        "--response-timeout",
        "--idle-timeout",
        "--header-timeout",
        "--drain-timeout",
    ),
    "limits": ("--max-connections", "--max-header-bytes", "--max-body-bytes"),
    "processes": ("--name", "--workers", "--watch"),
    "auto scaling": (
        *("--min", "--max", "--health-check-grace", "--warmup", "--slow-start"),
        *("--zero-after", "--hold-timeout", "--bake-time"),
        *("--user", "--stop-timeout", "--max-rss", "--max-lifetime"),
    ),
    "admin": ("--admin", "--admin-token-file", "--admin-socket"),
    "logs": ("--access-log", "--access-log-format", "--log-level", "--log-format"),
}
AUTO_SCALING = """\
fastlb starts the app itself, as many times as the load asks for. The app's
command stands after --, and {socket} or {port} in it is where each instance
must listen. With --min and without --max the number stays --min.

  fastlb run --listen http://127.0.0.1:8080 --min 2 --max 8 \\
      --scale cpu=60 -- uvicorn app:app --uds {socket}
  fastlb run --listen http://127.0.0.1:8080 --max 4 \\
      --scale requests=500/min -- node server.js --port {port}
"""
METAVARS: dict[Kind, str] = {
    "text": "TEXT",
    "texts": "[TEXT, ...]",
    "count": "N",
    "number": "NUMBER",
    "bytes": "SIZE",
    "duration": "TIME",
    "choice": "NAME",
    "ranges": "RANGES",
    "percents": "[N, ...]",
    "networks": "CIDR,...",
    "path": "PATH",
    "address": "ADDRESS",
    "environment": "{ NAME = TEXT }",
}
EPILOG = """\
TIME has its unit: 500ms, 2s, 1m, 1h. SIZE is 4096, 64KiB or 1MB. RANGES are 200-399,404.
Every flag can be written in the file too, and overrides it there: a listener's in every
listener, a target group's in every target group, one of auto scaling in every auto scaling
group.
"""


def settings_with_flags() -> Iterator[tuple[type, Field[Any], Setting, str]]:
    """Every setting that has a flag: the model class, the field, the declaration, the flag."""
    for cls in SETTING_CLASSES:
        for item, setting in declared(cls):
            if setting.flag is not None:
                yield cls, item, setting, setting.flag


def add_configuration_flags(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    known = {flag: (item, setting) for _, item, setting, flag in settings_with_flags()}
    for title, flags in GROUPS.items():
        about = AUTO_SCALING if title == "auto scaling" else None
        group = parser.add_argument_group(title, about)
        if title == "listeners and targets":
            _add_listen_and_target(group)
        if title == "auto scaling":
            _add_scale(group)
        for flag in flags:
            item, setting = known.pop(flag)
            _add(group, flag, setting, default_of(item))
    if known:
        raise AssertionError(f"no group of --help has {', '.join(known)}")


def _add_listen_and_target(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--config",
        "-c",
        metavar="FILE",
        type=Path,
        action="append",
        help="TOML file; flags override what it says",
    )
    group.add_argument(
        "--listen",
        "-l",
        metavar="URL",
        action="append",
        default=[],
        help="address to listen on, http://HOST:PORT or tcp://HOST:PORT; may be repeated",
    )
    group.add_argument(
        "--target",
        "-t",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="HOST:PORT or unix:/path to forward to, with ,weight=N (0 to 999, default 1) or "
        ",backup (only while no other is eligible); may be repeated",
    )


def _add_scale(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--scale",
        metavar="METRIC=TARGET",
        action="append",
        default=[],
        help="keep the metric's mean over the instances near the target: cpu=60 (percent of one "
        "core), requests=500/min or 20/s, in_flight=10, rss=300MiB, queue_wait=50ms; replaces "
        "the scaling policies; may be repeated, then the one that asks for most instances wins "
        "(default cpu=60, if --max is over --min)",
    )


def _add(group: argparse._ArgumentGroup, flag: str, setting: Setting, default: Any) -> None:
    shown = to_flag_text(setting, default)
    if setting.kind == "text" and default is not None:
        shown = f'"{shown}"'
    text = f"{setting.help} (default {shown}: {setting.why})"
    names = [flag, setting.short] if setting.short else [flag]
    if setting.kind == "switch":
        off = flag.replace("--", "--no-", 1)
        group.add_argument(flag, dest=flag, action="store_const", const="on", help=text)
        group.add_argument(
            off, dest=flag, action="store_const", const="off", help=f"do not {setting.help}"
        )
        return
    if setting.choices:
        text = f"{setting.help}: {', '.join(setting.choices)}{text[len(setting.help) :]}"
    group.add_argument(
        *names, dest=flag, metavar=METAVARS[setting.kind], help=text.replace("%", "%%")
    )


def overrides_of(arguments: argparse.Namespace) -> Overrides:
    """What the flags say."""
    given = vars(arguments)
    settings = {
        flag: given[flag] for *_, flag in settings_with_flags() if given.get(flag) is not None
    }
    return Overrides(
        tuple(arguments.listen),
        tuple(arguments.target),
        settings,
        arguments.app_command,
        tuple(arguments.scale),
    )


def configuration_of(arguments: argparse.Namespace) -> Loaded:
    """What the flags and the file say together. Raises ConfigError."""
    overrides = overrides_of(arguments)
    path = config_path(arguments)
    if path is None:
        return load(overrides=overrides)
    loaded = load(_read(path), overrides, source=str(path))
    ignored = [str(one) for one in arguments.config[:-1]]
    if ignored:
        warning = f"--config: {path} is read, the last one given, and not {', '.join(ignored)}"
        return replace(loaded, warnings=(warning, *loaded.warnings))
    return loaded


def config_path(arguments: argparse.Namespace) -> Path | None:
    """The file that `--config` names; of several the last."""
    given: list[Path] = arguments.config or []
    return given[-1] if given else None


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # With a byte order mark the error counts from behind it.
        start = error.start + len(raw) - len(error.object)
        raise ConfigError([f"{path}: {not_utf8(raw, start)}"]) from None
