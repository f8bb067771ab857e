// The first view: is it well, how much does it do, how fast; charts; listeners and groups.

import { Chart, Sparkline } from "./charts.js";
import { LATENCIES, rateColumns, REQUESTS } from "./columns.js";
import { h, KeyedList, setAttribute, setClass, setText } from "./dom.js";
import { amount, bytesPerSecond, counted, latency, latencyMark, percent } from "./format.js";
import { calmOf, otherStates, ratesOf, troubles } from "./readings.js";
import { LiveSeries } from "./series.js";
import { DataTable } from "./tables.js";

const [requests, server, p50, p95, p99, inFlight] = rateColumns;

const number = (key, label, text, more = {}) => ({
  key,
  label,
  text: (one) => text(one[key]),
  sort: (one) => one[key],
  number: true,
  most: true,
  ...more,
});

class Tile {
  constructor(label, color = null) {
    this.value = h("span", { class: "tile-value" }, "–");
    this.sub = h("span", { class: "tile-sub" });
    this.spark = color ? new Sparkline(color) : null;
    this.element = h(
      "div",
      { class: "tile card" },
      h("span", { class: "tile-label" }, label),
      this.value,
      this.sub,
      this.spark?.element ?? null,
    );
  }

  show(value, sub, look = "") {
    setText(this.value, value);
    setClass(this.value, `tile-value ${look}`);
    setText(this.sub, sub);
  }
}

export class OverviewView {
  constructor() {
    this.tiles = {
      requests: new Tile("Requests / s", "c-ok"),
      errors: new Tile("5xx / s", "c-bad"),
      latency: new Tile("Latency p99", "c-3"),
      inFlight: new Tile("In flight", "c-1"),
      connections: new Tile("Connections", "c-2"),
      targets: new Tile("Targets healthy"),
      host: new Tile("Host CPU", "c-4"),
    };
    this.health = h("ul", { class: "health card", "aria-label": "Health" });
    this.healthList = new KeyedList(
      this.health,
      (one) => one.key,
      (one) => h("li", {}, one.href ? h("a", { href: one.href }) : h("span", {})),
      (node, one) => {
        setClass(node, one.look);
        setText(node.firstElementChild, one.text);
      },
    );
    this.scope = h("select", { "aria-label": "Charts of", onchange: () => this.#choose() });
    this.scopes = new KeyedList(
      this.scope,
      (one) => one.value,
      (one) => h("option", { value: one.value }),
      (node, one) => setText(node, one.label),
    );
    this.span = "5m";
    this.spans = ["5m", "1h"].map((one) =>
      h(
        "button",
        {
          type: "button",
          class: "button",
          "aria-pressed": String(one === "5m"),
          onclick: () => this.#setSpan(one),
        },
        one === "5m" ? "5 minutes" : "1 hour",
      ),
    );
    this.charts = [
      new Chart({ title: "Requests per second", series: REQUESTS, format: amount, least: 1 }),
      new Chart({
        title: "Latency",
        series: LATENCIES,
        format: latency,
        axis: latencyMark,
        least: 0.0001,
      }),
      new Chart({
        title: "In flight and connections",
        series: [
          { key: "in_flight", label: "in flight", look: "line", color: "c-1" },
          { key: "connections", label: "connections", look: "line", color: "c-2" },
        ],
        format: amount,
        whole: true,
        least: 4,
      }),
    ];
    this.groups = groupsTable();
    this.listeners = listenersTable();
    this.element = h(
      "div",
      { class: "view" },
      h(
        "div",
        { class: "tiles" },
        Object.values(this.tiles).map((one) => one.element),
      ),
      this.health,
      h(
        "section",
        { "aria-label": "Charts" },
        h(
          "div",
          { class: "chart-tools" },
          this.scope,
          h(
            "div",
            { class: "segments", role: "group", "aria-label": "Span of the charts" },
            this.spans,
          ),
        ),
        h(
          "div",
          { class: "charts" },
          this.charts.map((one) => one.element),
        ),
      ),
      this.groups.element,
      this.listeners.element,
    );
    this.sparked = false;
  }

  shown() {
    this.#load();
  }

  hidden() {
    this.series?.stop();
    this.series = null;
  }

  reconnected() {
    this.sparked = false;
    this.series?.load();
  }

  show(overview) {
    this.#showTiles(overview);
    const found = troubles(overview).map((one) => ({ ...one, look: one.bad ? "bad" : "warn" }));
    this.healthList.show(found.length ? found : [calmOf(overview)]);
    this.scopes.show([
      { value: "all", label: "Everything" },
      ...overview.groups.map((one) => ({ value: `group:${one.name}`, label: `Group ${one.name}` })),
      ...overview.listeners.map((one) => ({
        value: `listener:${one.key}`,
        label: `Listener ${one.key}`,
      })),
      ...overview.workers.map((one) => ({
        value: `worker:${one.index}`,
        label: `Worker ${one.index}`,
      })),
    ]);
    // What was chosen may have gone with a reload.
    if (this.series && (this.scope.value || "all") !== this.series.scope) this.#load();
    this.groups.show(overview.groups);
    this.listeners.show(overview.listeners);
    this.series?.add(overview);
  }

  #showTiles(overview) {
    const { totals, host, targets, listeners } = overview;
    const connections =
      totals.connections ?? listeners.reduce((sum, one) => sum + (one.connections ?? 0), 0);
    const failed = totals.status?.["5xx"] ?? 0;
    const { tiles } = this;
    tiles.requests.show(amount(totals.requests_per_s), `${amount(totals.requests_total)} in all`);
    tiles.errors.show(
      amount(failed),
      `4xx ${amount(totals.status?.["4xx"])}/s\nretries ${amount(totals.retries_per_s)}/s`,
      failed > 0 ? "bad" : "",
    );
    tiles.latency.show(
      latency(totals.p99_s),
      `p50 ${latency(totals.p50_s)}\np95 ${latency(totals.p95_s)}`,
    );
    tiles.inFlight.show(amount(totals.in_flight), `${amount(totals.errors_per_s)} target errors/s`);
    tiles.connections.show(
      amount(connections),
      `in ${bytesPerSecond(totals.bytes_in_per_s)}\nout ${bytesPerSecond(totals.bytes_out_per_s)}`,
    );
    const healthy = targets.filter((one) => one.state === "healthy").length;
    tiles.targets.show(
      `${healthy} / ${targets.length}`,
      otherStates(targets),
      healthy < targets.length ? "warn" : "",
    );
    tiles.host.show(
      percent(host.cpu_percent),
      `memory ${percent(host.memory_percent)}\n${counted(host.cores, "core")}`,
    );
    if (this.sparked) {
      tiles.requests.spark.add(totals.requests_per_s);
      tiles.errors.spark.add(failed);
      tiles.latency.spark.add(totals.p99_s);
      tiles.inFlight.spark.add(totals.in_flight);
      tiles.connections.spark.add(connections);
    }
    tiles.host.spark.add(host.cpu_percent);
  }

  #choose() {
    this.#load();
  }

  #setSpan(span) {
    this.span = span;
    this.spans.forEach((one, n) => setAttribute(one, "aria-pressed", ["5m", "1h"][n] === span));
    this.#load();
  }

  #load() {
    this.series?.stop();
    const scope = this.scope.value || "all";
    const pick = (overview) => ratesOf(scope, overview);
    this.series = new LiveSeries(scope, this.span, pick, (times, values) => {
      for (const chart of this.charts) chart.show(times, values);
      if (scope === "all" && this.span === "5m" && !this.sparked) this.#begin(values);
    });
  }

  #begin(values) {
    this.sparked = true;
    const { requests, errors, latency: slow, inFlight: busy, connections } = this.tiles;
    requests.spark.begin(values.requests);
    errors.spark.begin(values.errors_5xx);
    slow.spark.begin(values.p99_s);
    busy.spark.begin(values.in_flight);
    connections.spark.begin(values.connections ?? []);
  }
}

function groupsTable() {
  return new DataTable({
    title: "Target groups",
    key: (one) => one.name,
    text: (one) => `${one.name} ${one.algorithm}`,
    sortBy: "name",
    empty: "No target group.",
    columns: [
      {
        key: "name",
        label: "Group",
        shape: "main",
        text: (one) => one.name,
        sub: (one) => one.algorithm.replaceAll("_", " "),
        sort: (one) => one.name,
      },
      {
        key: "healthy",
        label: "Healthy",
        number: true,
        sort: (one) => one.healthy,
        text: (one) => `${one.healthy} / ${one.targets}`,
        look: (one) =>
          one.fail_open || (one.targets && !one.healthy)
            ? "bad"
            : one.healthy < one.targets
              ? "warn"
              : "",
      },
      number("held", "Held", amount, { live: true }),
      ...[requests, server, p50, p95, p99, inFlight],
    ],
  });
}

function listenersTable() {
  return new DataTable({
    title: "Listeners",
    key: (one) => one.key,
    text: (one) => one.key,
    sortBy: "key",
    empty: "No listener.",
    columns: [
      {
        key: "key",
        label: "Listener",
        shape: "main",
        text: (one) => one.key,
        sub: (one) => counted(one.rules, "rule"),
        sort: (one) => one.key,
      },
      number("connections", "Connections", amount, { live: true }),
      requests,
      {
        ...server,
        key: "4xx",
        label: "4xx/s",
        text: (one) => amount(one.status?.["4xx"]),
        sort: (one) => one.status?.["4xx"],
        look: () => "",
      },
      server,
      ...[p50, p95, p99].map((one) => ({ ...one, when: (row) => row.latency_known })),
      number("bytes_in_per_s", "In", bytesPerSecond, { live: true }),
      number("bytes_out_per_s", "Out", bytesPerSecond, { live: true }),
    ],
  });
}
