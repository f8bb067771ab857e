// All targets with health and reason, and one of them in detail with its actions.

import { targetActions } from "./actions.js";
import { Chart } from "./charts.js";
import { openDialog } from "./dialogs.js";
import { h, setAttribute, setClass, setText } from "./dom.js";
import { age, amount, bytesPerSecond, latency, latencyMark, span } from "./format.js";
import { actionsColumn, LATENCIES, rateColumns, REQUESTS } from "./columns.js";
import { ratesOf, reasonOf } from "./readings.js";
import { LiveSeries } from "./series.js";
import { DataTable } from "./tables.js";

const WORST_FIRST = ["unhealthy", "disabled", "draining", "unused", "initial", "healthy"];

/** Of a target only its 5xx are counted by themselves. */
const ANSWERS = [{ ...REQUESTS[0], label: "1xx–4xx" }, REQUESTS[2]];

const keyOf = (one) => `${one.group}/${one.address}`;
const nameOf = (one) => one.instance ?? one.address;

export function stateOf(one) {
  return one.suspect && one.state === "healthy" ? "suspect" : one.state;
}

const rankOf = (one) => WORST_FIRST.indexOf(one.state) * 2 + (one.suspect ? 0 : 1);

function whyOf(one) {
  const since = one.since_s === null || one.since_s === undefined ? "" : `${age(one.since_s)} · `;
  return `${since}${reasonOf(one)}`;
}

/** The actions of something as buttons, made anew only where other ones are possible. */
export class ActionButtons {
  constructor(find) {
    this.find = find;
    this.element = h("div", { class: "buttons" });
    this.shown = "";
  }

  show(item) {
    const actions = this.find(item);
    const labels = actions.map((one) => one.label).join("|");
    this.item = item;
    if (labels === this.shown) return;
    this.shown = labels;
    const focused = this.element.contains(document.activeElement);
    this.element.replaceChildren(
      ...actions.map((action) =>
        h(
          "button",
          {
            type: "button",
            class: action.hurts ? "button danger-quiet" : "button",
            // What is asked is about how it is by then, not about how it was when the button was made.
            onclick: (event) =>
              this.find(this.item)
                .find((one) => one.label === action.label)
                ?.run(event.currentTarget),
          },
          action.label,
        ),
      ),
    );
    if (focused) this.element.firstElementChild?.focus();
  }
}

export class Badge {
  static make() {
    return h("span", { class: "badge" }, h("span", { class: "dot" }), h("span", {}));
  }

  static update(element, state) {
    setClass(element, `badge s-${state}`);
    setText(element.lastElementChild, state.replaceAll("_", " "));
  }
}

export class TargetsView {
  constructor() {
    this.table = new DataTable({
      title: "Targets",
      key: keyOf,
      text: (one) =>
        `${one.address} ${one.instance ?? ""} ${one.group} ${stateOf(one)} ${one.reason} ${one.override ?? ""}`,
      sortBy: "state",
      empty: "No target that matches.",
      columns: [
        {
          key: "address",
          label: "Target",
          shape: "main",
          titled: true,
          text: nameOf,
          sub: (one) => (one.instance ? one.address : one.backup ? "backup" : ""),
          sort: nameOf,
        },
        {
          key: "state",
          label: "State",
          shape: "state",
          sort: rankOf,
          make: () => h("div", {}, Badge.make(), h("span", { class: "sub" })),
          update: (element, one) => {
            Badge.update(element.firstElementChild, stateOf(one));
            setText(element.lastElementChild, whyOf(one));
            const well = one.state === "healthy" && !one.suspect;
            setClass(element.lastElementChild, well ? "sub" : "sub whole");
            setAttribute(element.lastElementChild, "title", one.reason);
          },
        },
        { key: "group", label: "Group", text: (one) => one.group, sort: (one) => one.group },
        {
          key: "weight",
          label: "Weight",
          number: true,
          text: (one) => String(one.weight),
          sort: (one) => one.weight,
          most: true,
        },
        ...rateColumns,
        actionsColumn(nameOf, (one) => this.#open(keyOf(one))),
      ],
    });
    this.element = h("div", { class: "view" }, this.table.element);
  }

  filterBy(text) {
    this.table.filterBy(text);
  }

  show(overview) {
    this.overview = overview;
    this.table.show(overview.targets);
    this.detail?.show(overview);
  }

  #open(key) {
    this.detail = new TargetDetail(key, () => (this.detail = null));
    this.detail.show(this.overview);
  }
}

class TargetDetail {
  constructor(key, closed) {
    this.key = key;
    const scope = `target:${key}`;
    this.badge = Badge.make();
    this.why = h("p", { class: "why" });
    this.figures = h("dl", { class: "figures" });
    this.buttons = new ActionButtons(targetActions);
    this.charts = [
      new Chart({ title: "Requests per second", series: ANSWERS, format: amount, least: 1 }),
      new Chart({
        title: "Latency",
        series: LATENCIES,
        format: latency,
        axis: latencyMark,
        least: 0.0001,
      }),
    ];
    this.series = new LiveSeries(
      scope,
      "5m",
      (overview) => ratesOf(scope, overview),
      (times, values) => {
        for (const chart of this.charts) chart.show(times, values);
      },
    );
    const content = h(
      "div",
      { class: "detail" },
      h("div", { class: "detail-state" }, this.badge, this.why),
      this.buttons.element,
      this.figures,
      h(
        "div",
        { class: "charts two" },
        this.charts.map((one) => one.element),
      ),
    );
    this.dialog = openDialog(key.slice(key.indexOf("/") + 1), content, () => {
      this.series.stop();
      closed();
    });
    this.dialog.classList.add("wide");
  }

  show(overview) {
    const one = overview.targets.find((target) => keyOf(target) === this.key);
    if (!one) {
      Badge.update(this.badge, "gone");
      setText(this.why, "This target is no longer there.");
      this.buttons.element.replaceChildren();
      return;
    }
    Badge.update(this.badge, stateOf(one));
    setText(
      this.why,
      `${one.reason} · for ${span(one.since_s)}${one.override ? ` · ${one.override}` : ""}`,
    );
    this.buttons.show(one);
    this.series.add(overview);
    const figures = {
      Group: one.group,
      ...(one.instance ? { Instance: one.instance } : {}),
      Weight: one.backup ? `${one.weight} (backup)` : String(one.weight),
      "In flight": amount(one.in_flight),
      Connections: amount(one.connections),
      "Requests in all": amount(one.requests_total),
      "Errors / s": amount(one.errors_per_s),
      "Retries / s": amount(one.retries_per_s),
      In: bytesPerSecond(one.bytes_in_per_s),
      Out: bytesPerSecond(one.bytes_out_per_s),
    };
    const names = Object.keys(figures);
    if (this.figures.children.length !== names.length)
      this.figures.replaceChildren(
        ...names.map((name) => h("div", {}, h("dt", {}, name), h("dd", {}))),
      );
    names.forEach((name, n) => setText(this.figures.children[n].lastElementChild, figures[name]));
  }
}
