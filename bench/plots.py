"""Plots of a run as SVG, by matplotlib: ratios to the best peer, and latencies. Knows results only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Result, figure
from bench.loads import Wrk
from bench.proxies import NO_PROXY
from bench.workloads import PEERS

COLOURS = {
    "fastlb": "#0b6e99",
    "nginx": "#4c9f70",
    "haproxy": "#d98e04",
    "caddy": "#8d6cab",
    NO_PROXY: "#9a9a9a",
}
PROXIES = ("fastlb", "nginx", "haproxy", "caddy")


def draw(results: Sequence[Result], folder: Path, prefix: str = "") -> list[str]:
    """Names of the files written into `folder`; ImportError where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("svg")
    # The same results make the same file, and its texts stay texts.
    matplotlib.rcParams.update({"svg.hashsalt": "fastlb", "svg.fonttype": "none", "font.size": 9})
    names = []
    for name, title, rows in (
        (
            "rate",
            "requests/s over those of the best peer: longer is better",
            _relative(results, "rate"),
        ),
        (
            "cpu",
            "CPU per request over that of the best peer: shorter is better",
            _relative(results, "cpu"),
        ),
    ):
        if rows:
            names.append(f"{prefix}{name}.svg")
            _bars(rows, title, folder / names[-1])
    if measured := [one for one in results if _has_latency(one)]:
        names.append(f"{prefix}latency.svg")
        _latencies(measured, folder / names[-1])
    return names


def _has_latency(result: Result) -> bool:
    return isinstance(result.workload.load, Wrk) and any(
        figure(cells, "p999") for cells in result.cells.values()
    )


def _relative(results: Sequence[Result], name: str) -> list[tuple[str, dict[str, float]]]:
    """For each workload, each proxy's median over that of the best peer."""
    rows = []
    for result in results:
        medians = {
            proxy: found.median
            for proxy in PROXIES
            if (found := figure(result.cells.get(proxy, ()), name)) is not None
        }
        peers = [value for proxy, value in medians.items() if proxy in PEERS]
        if peers and "fastlb" in medians:
            best = max(peers) if name == "rate" else min(peers)
            rows.append(
                (result.workload.title, {key: value / best for key, value in medians.items()})
            )
    return rows


def _bars(rows: Sequence[tuple[str, dict[str, float]]], title: str, path: Path) -> None:
    shown = [proxy for proxy in PROXIES if any(proxy in values for _, values in rows)]
    height = 0.8 / len(shown)
    figure_, axes = _axes(len(rows), 0.085 * len(shown) + 0.09, title)
    for place, proxy in enumerate(shown):
        at = [row - 0.4 + (place + 0.5) * height for row in range(len(rows))]
        values = [values.get(proxy, 0.0) for _, values in rows]
        axes.barh(at, values, height * 0.92, color=COLOURS[proxy], label=proxy)
    axes.axvline(1.0, color="#333333", linewidth=0.8)
    axes.set_xlim(0, min(max(max(values.values()) for _, values in rows) * 1.05, 4.0))
    _finish(figure_, axes, [title for title, _ in rows], path)


def _latencies(results: Sequence[Result], path: Path) -> None:
    shown = [
        name for name in (*PROXIES, NO_PROXY) if any(name in result.cells for result in results)
    ]
    height = 0.8 / len(shown)
    title = "latency in µs: dot p50, line to p99, thin line to p99.9"
    figure_, axes = _axes(len(results), 0.085 * len(shown) + 0.09, title)
    for place, name in enumerate(shown):
        for row, result in enumerate(results):
            cells = result.cells.get(name, ())
            p50, p99, p999 = (figure(cells, key) for key in ("p50", "p99", "p999"))
            if p50 is None or p99 is None or p999 is None:
                continue
            at = row - 0.4 + (place + 0.5) * height
            colour = COLOURS[name]
            label = name if row == 0 else None
            axes.plot([p50.median, p999.median], [at, at], color=colour, linewidth=0.7)
            axes.plot([p50.median, p99.median], [at, at], color=colour, linewidth=2.2)
            axes.plot([p50.median], [at], "o", color=colour, markersize=3, label=label)
    axes.set_xscale("log")
    _finish(figure_, axes, [result.workload.title for result in results], path)


def _axes(rows: int, each: float, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure_ = Figure(figsize=(9.0, 1.1 + rows * each), layout="constrained", facecolor="white")
    axes = figure_.add_subplot()
    axes.set_title(title, fontsize=10, loc="left", pad=22)
    return figure_, axes


def _finish(figure_: Any, axes: Any, titles: Sequence[str], path: Path) -> None:
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.5, -0.5)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=5, frameon=False)
    figure_.savefig(path, metadata={"Date": None})
