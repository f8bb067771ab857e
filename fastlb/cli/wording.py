"""Words that more than one command prints."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 request`, `2 requests`, `2 retries`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("y") else f"{number} {noun}s"


def clean(text: str) -> str:
    """What a target or an app said may be quoted in it: nothing of it may steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
