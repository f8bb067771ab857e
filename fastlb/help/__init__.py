"""The help topics, one Markdown file each; here is how they are found.

Of Markdown they use headings, paragraphs, lists with `-`, indented code, `code`, **bold** and *italics*:
what is shown in a terminal, as plain text and in the man page alike.
"""

from __future__ import annotations

from importlib.resources import files

ORDER = (
    *("configuration", "health", "targets", "scaling", "reload", "upgrade", "signals"),
    *("admin", "metrics", "logs", "files", "environment", "exit-status", "systemd", "containers"),
)
"""As they are listed; each is a file here."""


def topic(name: str) -> str:
    """Its Markdown. Raises FileNotFoundError where there is none."""
    return files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8")


def title_and_summary(text: str) -> tuple[str, str]:
    """Its heading, and the first sentence after it."""
    heading, _, rest = text.partition("\n")
    first = " ".join(rest.strip().split("\n\n")[0].split())
    sentence, stop, _ = first.partition(". ")
    return heading.removeprefix("# "), sentence + stop.strip()
