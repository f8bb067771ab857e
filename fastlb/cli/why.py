"""`fastlb why`: the decisions of scaling, health and routing, with what they were taken from."""

from __future__ import annotations

import argparse

from fastlb.cli.reading import add_reading, read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_reading(parser)


def why(arguments: argparse.Namespace) -> int:
    from fastlb.cli.history_view import decision

    return read(arguments, {"command": "why"}, decision)
