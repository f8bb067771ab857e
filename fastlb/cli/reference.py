"""The reference of flags and TOML as Markdown, made from the model's declarations.

    python -m fastlb.cli.reference            prints it
    python -m fastlb.cli.reference README.md  puts it between the file's markers

What is made here and nowhere else cannot differ from what the program does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fastlb.cli.flags import METAVARS
from fastlb.config.values import to_toml_value
from fastlb.config.write import inline
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
from fastlb.model.listener import Listener
from fastlb.model.settings import declared, default_of
from fastlb.model.target_group import TargetGroup

BEGIN = "<!-- settings -->"
END = "<!-- /settings -->"

SECTIONS: tuple[tuple[str, type], ...] = (
    ("The instance: keys at the top of the file", Configuration),
    ("`[[listeners]]`: a flag sets it for every listener", Listener),
    ("`[target_groups.NAME]`: a flag sets it for every group", TargetGroup),
    ("`health_check` of a target group: a flag sets it for every group", HealthCheck),
)

HEAD = """\
Every setting is a key of the TOML file, and most are flags of `fastlb run` too; a flag overrides
the file. TIME is written with its unit: `500ms`, `2s`, `1m`, `1h`. SIZE is `4096`, `64KiB` or
`1MB`. RANGES are `200-399,404`. In the file they are texts (`"2s"`), N is a number and `CIDR,...`
a list (`["10.0.0.0/8", "::1"]`). `fastlb check` says every error of a file; `fastlb check --print`
shows what it comes to, with every default.

| Flag | What it says |
|---|---|
| `--config`, `-c` | the TOML file |
| `--listen`, `-l` | an address to listen on, `http://HOST:PORT` or `tcp://HOST:PORT`; \
replaces the file's listeners; forwards to the only target group, or to `default` |
| `--target`, `-t` | `HOST:PORT` or `unix:/path`, with `,weight=N` or `,backup`; replaces \
the targets of the only target group, or of `default` |
"""

SHAPES = """\
### The shape of the file

```toml
[[listeners]]
address = "http://0.0.0.0:8080"        # or tcp://; http://:8080 is every IPv4 address
default = { forward = "web" }          # what no rule matches; an action, see below

[[listeners.rules]]                    # http only; the lowest priority that matches acts
priority = 10                          # 1 to 50000
path = ["/api/*"]                      # conditions: all of them must hold
forward = [{ group = "api", weight = 9 }, { group = "api-canary", weight = 1 }]

[target_groups.web]
targets = [
  "127.0.0.1:9001",
  "127.0.0.1:9002,weight=2",
  "127.0.0.1:9009,backup",             # only while no other is eligible
  { address = "unix:/run/app.sock", weight = 2, backup = false },
]
health_check = { path = "/health", interval = "2s" }   # false turns it off
```

| Condition of a rule | Holds when |
|---|---|
| `host = ["*.example.com"]` | one of them is the request's host; without its port, in any case |
| `path = ["/api/*"]` | one of them is the path; case counts |
| `method = ["GET", "HEAD"]` | one of them is the method |
| `header = [{ name = "User-Agent", values = ["*Mobile*"] }]` | for each entry, one of its values \
is one of the field's; in any case |
| `query = ["version=2", { key = "q", value = "*" }, "any-value"]` | one of them is in the query, \
decoded; in any case; without a key, the value of any key |
| `source_ip = ["10.0.0.0/8", "::1"]` | the connection comes from one of the networks |

`*` stands for any number of characters and `?` for one, in all but `method` and `source_ip`; `\\*`
and `\\?` are the characters themselves.

| Action | Does |
|---|---|
| `forward = "web"` | sends the request to a target of the group |
| `forward = [{ group = "a", weight = 9 }, { group = "b", weight = 1 }]` | to one of the groups, \
by weight: 0 to 999 |
| `redirect = { status = 302, protocol = "#{protocol}", host = "#{host}", port = "#{port}", \
path = "/#{path}", query = "#{query}" }` | answers with that Location; these are the defaults, \
and one of protocol, host, port and path must differ; a status is 301, 302, 303, 307 or 308. The \
port stays the request's where only the protocol changes: say `port = 443` with \
`protocol = "https"` |
| `fixed_response = { status = 503, body = "", content_type = "text/plain" }` | answers by itself; \
these are the defaults |
"""


def reference() -> str:
    parts = [HEAD]
    for title, cls in SECTIONS:
        rows = [
            f"| `{item.name}` | {_flags(setting.flag, setting.short, setting.kind)} "
            f"| {_value(setting.choices, METAVARS.get(setting.kind, 'true, false'))} "
            f"| `{inline(to_toml_value(setting, default_of(item)))}` | {_cell(setting.help)} "
            f"| {_cell(setting.why)} |"
            for item, setting in declared(cls)
        ]
        head = "| Key | Flag | Value | Default | What it is | Why that default |"
        parts.append("\n".join([f"### {title}", "", head, "|---" * 6 + "|", *rows, ""]))
    parts.append(SHAPES)
    return "\n".join(parts)


def _flags(flag: str | None, short: str | None, kind: str) -> str:
    if flag is None:
        return ""
    if kind == "switch":
        return f"`{flag.replace('--', '--no-', 1)}`"
    return f"`{flag}`, `{short}`" if short else f"`{flag}`"


def _value(choices: tuple[str, ...], metavar: str) -> str:
    return ", ".join(f"`{one}`" for one in choices) or metavar


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def put_between_markers(text: str) -> str | None:
    """`text` with the reference between the markers; None where it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return None
    return f"{before}{BEGIN}\n{reference()}{END}{after}"


def main(arguments: list[str]) -> int:
    if not arguments:
        print(reference(), end="")
        return 0
    for name in arguments:
        path = Path(name)
        changed = put_between_markers(path.read_text(encoding="utf-8"))
        if changed is None:
            print(f"{path}: expected the markers {BEGIN} and {END}", file=sys.stderr)
            return 1
        path.write_text(changed, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
