"""How counts are said in log lines."""

from __future__ import annotations


def count_of(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
