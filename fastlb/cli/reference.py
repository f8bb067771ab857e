"""The reference of flags and TOML as Markdown, made from the model's declarations.

    python -m fastlb.cli.reference            prints it
    python -m fastlb.cli.reference README.md  puts it between the file's markers

What is made here and nowhere else cannot differ from what the program does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fastlb.cli.flags import METAVARS
from fastlb.config.write import inline
from fastlb.config.write_values import to_toml_value
from fastlb.model.admin import Admin
from fastlb.model.auto_scaling import PROFILES, AutoScalingGroup
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
from fastlb.model.instance_refresh import REFRESH_PROFILES, InstanceRefresh
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.listener import Listener
from fastlb.model.settings import Setting, declared, default_of
from fastlb.model.target_group import TargetGroup

BEGIN = "<!-- settings -->"
END = "<!-- /settings -->"

SECTIONS: tuple[tuple[str, type], ...] = (
    ("The instance: keys at the top of the file", Configuration),
    ("`[admin]`", Admin),
    ("`[[listeners]]`: a flag sets it for every listener", Listener),
    ("`[target_groups.NAME]`: a flag sets it for every group", TargetGroup),
    ("`health_check` of a target group: a flag sets it for every group", HealthCheck),
    ("`[auto_scaling_groups.NAME]`: a flag sets it for every group", AutoScalingGroup),
    ("`launch_template` of an auto scaling group: a flag sets it for every group", LaunchTemplate),
    ("`refresh` of an auto scaling group: a flag sets it for every group", InstanceRefresh),
)

HEAD = """\
Every setting is a key of the TOML file, and most are flags of `fastlb run` too; a flag overrides
the file. TIME is written with its unit: `500ms`, `2s`, `1m`, `1h`. SIZE is `4096`, `64KiB` or
`1MB`. RANGES are `200-399,404`. In the file they are texts (`"2s"`), N and NUMBER are numbers and
`CIDR,...` is a list (`["10.0.0.0/8", "::1"]`). `fastlb check` says every error of a file; `fastlb
check --print` shows what it comes to, with every default, and hides the values of environment
variables unless `--show-env` is given.

| Flag | What it says |
|---|---|
| `--config`, `-c` | the TOML file |
| `--listen`, `-l` | an address to listen on, `http://HOST:PORT` or `tcp://HOST:PORT`; \
replaces the file's listeners; forwards to the only target group, or to `default` |
| `--target`, `-t` | `HOST:PORT` or `unix:/path`, with `,weight=N` or `,backup`; replaces \
the targets of the only target group, or of `default` |
| `--scale` | `METRIC=TARGET`, such as `cpu=60`, `requests=500/min`, `in_flight=10`, `rss=300MiB` or \
`queue_wait=50ms`; may be repeated; replaces the scaling policies by target tracking ones |
| `-- COMMAND ...` | the app's own command; replaces that of the only auto scaling group, or makes the \
auto scaling group `default` of the only target group, or of `default` |
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

[[listeners.rules]]
priority = 20
host = ["app.example.com"]
forward = "app"

[target_groups.web]
targets = [
  "127.0.0.1:9001",
  "127.0.0.1:9002,weight=2",
  "127.0.0.1:9009,backup",             # only while no other is eligible
  { address = "unix:/run/app.sock", weight = 2, backup = false },
]
health_check = { path = "/health", interval = "2s" }   # false turns it off

[target_groups.app]
auto_scaling_group = "app"             # its instances are targets, beside those of `targets`

[auto_scaling_groups.app]
min = 2
max = 8                                # without it the number stays `min`
refresh = { min_healthy = 100, checkpoints = [50] }

[auto_scaling_groups.app.launch_template]
command = ["uvicorn", "app:app", "--uds", "{socket}"]  # or "--port", "{port}"
cwd = "/srv/app"
env = { MODE = "prod" }

[[auto_scaling_groups.app.policies]]   # left out: cpu near 60; policies = [] is none
type = "target_tracking"
metric = "cpu"
target = 60

[[auto_scaling_groups.app.policies]]
type = "step"
metric = "requests"
above = "600/min"                      # or below
steps = [{ from = 0, to = 300, add = 1 }, { from = 300, add = 2 }]

[[auto_scaling_groups.app.policies]]
type = "simple"
metric = "queue_wait"
above = "200ms"
add_percent = 50
min_adjustment_magnitude = 2
cooldown = "1m"

[[auto_scaling_groups.app.policies]]
type = "scheduled"
cron = "0 8 * * 1-5"
time_zone = "Europe/Berlin"
min = 4
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

| Scaling policy | Does |
|---|---|
| `type = "target_tracking"`: `metric`, `target`, `disable_scale_in` | keeps the metric near the \
target; with `disable_scale_in = true` it only adds instances |
| `type = "step"`: `metric`, `above` or `below`, `steps`, `min_adjustment_magnitude` | the further the \
metric is past the threshold, the larger the step. `from` and `to` are the metric minus the threshold, \
in the metric's unit, and below 0 for `below`; steps follow each other without gaps, and the outermost \
has no end |
| `type = "simple"`: `metric`, `above` or `below`, an adjustment, `min_adjustment_magnitude`, \
`cooldown` | one adjustment, then none of this policy until the cooldown is over; without `cooldown` \
the group's |
| `type = "scheduled"`: `cron`, `time_zone`, `min`, `max`, `desired` | sets at least one of the three \
at the times of the cron expression; the time zone is UTC where none is said |

An adjustment is `add = 2` (negative removes), `set = 4` or `add_percent = 50`, and the same one in all \
steps of a policy; `min_adjustment_magnitude` is the least that a percentage comes to. If policies \
differ, the one that asks for most instances wins.

| Metric: mean over the instances in service | Amount |
|---|---|
| `cpu` | percent of one core: `60`; an instance of several processes may be over 100 |
| `requests` | a minute: `500`, `"500/min"`, or `"20/s"` |
| `in_flight` | requests: `10` |
| `rss` | resident memory: `"300MiB"` |
| `queue_wait` | time: `"50ms"` |

In the command and the values of `env`, `{socket}` stands for the path of a unix socket, `{port}` for a \
port, and `{instance}` for the instance's id; other braces are left alone. An instance whose command \
says neither of the first two must listen on the port in the environment variable `PORT`.
"""

PROFILES_HEAD = """\
With `profile = "aws"` these hold where the file and the flags say nothing:

| Key | Value |
|---|---|
"""


def reference() -> str:
    parts = [HEAD]
    for title, cls in SECTIONS:
        rows = [
            f"| `{item.name}` | {_flags(setting.flag, setting.short, setting.kind, default_of(item))} "
            f"| {_value(setting)} "
            f"| `{inline(to_toml_value(setting, default_of(item)))}` | {_cell(setting.help)} "
            f"| {_cell(setting.why)} |"
            for item, setting in declared(cls)
        ]
        head = "| Key | Flag | Value | Default | What it is | Why that default |"
        parts.append("\n".join([f"### {title}", "", head, "|---" * 6 + "|", *rows, ""]))
    parts += [_profile(), SHAPES]
    return "\n".join(parts)


def _profile() -> str:
    rows = [
        f"| {where}`{item.name}` | `{inline(to_toml_value(setting, figures[item.name]))}` |"
        for where, cls, figures in (
            ("", AutoScalingGroup, PROFILES["aws"]),
            ("`refresh` ", InstanceRefresh, REFRESH_PROFILES["aws"]),
        )
        for item, setting in declared(cls)
        if item.name in figures
    ]
    return PROFILES_HEAD + "\n".join([*rows, ""])


def _flags(flag: str | None, short: str | None, kind: str, default: object) -> str:
    if flag is None:
        return ""
    if kind == "switch" and default:  # the flag that does something
        return f"`{flag.replace('--', '--no-', 1)}`"
    return f"`{flag}`, `{short}`" if short else f"`{flag}`"


def _value(setting: Setting) -> str:
    choices = ", ".join(f"`{one}`" for one in setting.choices)
    if setting.kind == "choices":
        return f"a list of {choices}"
    return choices or METAVARS.get(setting.kind, "true, false")


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
