"""The man page, made from the commands' summaries and the help topics.

python -m fastlb.cli.man_page                  prints it
python -m fastlb.cli.man_page deploy/fastlb.1  writes it
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from fastlb import __version__
from fastlb.cli.main import SECTIONS
from fastlb.help import ORDER, topic

HEAD = r"""
.\" Made by `make docs` from fastlb/help and the commands: change those.
.TH FASTLB 1 "" "fastlb {version}" "fastlb"
.SH NAME
fastlb \- TCP/HTTP load balancer with auto scaling for one Linux host
.SH SYNOPSIS
.B fastlb
.I COMMAND
[\fIflags\fR] [\fB\-\-\fR \fIapp's command\fR]
.SH COMMANDS
.B fastlb \fICOMMAND\fB \-\-help
shows the flags of one.
"""


def man_page() -> str:
    """As troff source."""
    lines = HEAD.format(version=__version__).strip().split("\n")
    for title, commands in SECTIONS.items():
        lines.append(f".SS {_escaped(title)}")
        for name, help in commands.items():
            lines += [".TP", f".B {_escaped(name)}", _inline(help)]
    for name in ORDER:
        lines += list(_roff(topic(name)))
    return "\n".join([*lines, ""])


def _roff(markdown: str) -> Iterator[str]:
    for block in markdown.strip().split("\n\n"):
        rows = block.split("\n")
        if rows[0].startswith("# "):
            yield f".SH {_escaped(rows[0].removeprefix('# ').upper())}"
        elif rows[0].startswith("    "):
            yield from (".PP", ".RS 4", ".nf")
            yield from (_escaped(row.removeprefix("    ")) or r"\&" for row in rows)
            yield from (".fi", ".RE")
        elif rows[0].startswith("- "):
            for item in re.split(r"\n- ", block.removeprefix("- ")):
                yield r".IP \(bu 2"
                yield _inline(" ".join(item.split()))
        else:
            yield ".PP"
            yield _inline(" ".join(block.split()))


def _inline(text: str) -> str:
    text = _escaped(text)
    text = re.sub(r"`([^`]+)`|\*\*([^*]+)\*\*", lambda m: rf"\fB{m[1] or m[2]}\fR", text)
    return re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*", r"\\fI\1\\fR", text)


def _escaped(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text


def main(arguments: list[str]) -> int:
    if not arguments:
        print(man_page(), end="")
    for name in arguments:
        Path(name).write_text(man_page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
