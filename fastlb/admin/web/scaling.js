// Auto scaling groups as cards with their charts, decisions and actions, and their instances.

import { groupActions } from "./actions.js";
import { Chart } from "./charts.js";
import { h, KeyedList, setText } from "./dom.js";
import { amount, measured, moment } from "./format.js";
import { ratesOf } from "./readings.js";
import { InstanceDetail, instancesTable } from "./instances.js";
import { LiveSeries } from "./series.js";
import { ActionButtons } from "./targets.js";

const CAPACITY = [
  { key: "desired", label: "desired", look: "step", color: "c-1" },
  { key: "in_service", label: "in service", look: "step", color: "c-ok" },
];

const YOUNG_SECONDS = 900;

class GroupCard {
  constructor(group, uptime) {
    this.desired = h("span", { class: "big" });
    this.bounds = h("span", { class: "quiet" });
    this.counts = h("p", { class: "counts" });
    this.policies = h("ul", { class: "policies" });
    this.policyList = new KeyedList(
      this.policies,
      (one) => `${one.name} ${one.metric}`,
      () =>
        h(
          "li",
          {},
          h("span", { class: "policy-name" }),
          h("meter", { min: 0 }),
          h("span", { class: "policy-value" }),
        ),
      showPolicy,
    );
    this.trouble = h("p", { class: "problem" });
    this.last = h("p", { class: "last" });
    this.buttons = new ActionButtons(groupActions);
    const metric = group.policies[0];
    this.capacity = new Chart({
      title: "Instances",
      series: CAPACITY,
      format: amount,
      whole: true,
      least: group.max,
    });
    this.measure = metric
      ? new Chart({
          title: `${metric.metric.replaceAll("_", " ")} against its target`,
          series: [
            { key: "metric", label: metric.metric, look: "line", color: "c-2" },
            { key: "target", label: "target", look: "dashed", color: "c-3" },
          ],
          format: (value) => measured(value, metric.unit),
          axis: (value) => measured(value, metric.unit.startsWith("requests") ? "" : metric.unit),
          least: (metric.target ?? 1) * 1.2,
        })
      : null;
    this.target = metric?.target ?? null;
    this.scope = `group:${group.target_group ?? group.name}`;
    // An hour shows nothing yet of what was started a moment ago.
    this.span = uptime < YOUNG_SECONDS ? "5m" : "1h";
    this.spans = ["5m", "1h"].map((one) =>
      h(
        "button",
        {
          type: "button",
          class: "button",
          "aria-pressed": String(one === this.span),
          onclick: () => this.#choose(one),
        },
        one === "5m" ? "5 minutes" : "1 hour",
      ),
    );
    this.element = h(
      "section",
      { class: "card scaling", "aria-label": `Auto scaling group ${group.name}` },
      h(
        "div",
        { class: "card-head" },
        h("h2", {}, group.name),
        this.buttons.element,
        h(
          "div",
          { class: "segments", role: "group", "aria-label": "Span of the charts" },
          this.spans,
        ),
      ),
      h(
        "div",
        { class: "scaling-body" },
        h(
          "div",
          { class: "scaling-facts" },
          h("p", {}, this.desired, this.bounds),
          this.counts,
          this.policies,
          this.trouble,
          h("div", {}, h("p", { class: "label" }, "Last decision"), this.last),
        ),
        h("div", { class: "charts two" }, this.capacity.element, this.measure?.element ?? null),
      ),
    );
  }

  show(group, overview) {
    setText(this.desired, String(group.desired));
    setText(this.bounds, ` desired, from ${group.min} to ${group.max}`);
    const counts = ["in_service", "pending", "terminating", "standby"]
      .filter((state) => group[state] || state === "in_service")
      .map((state) => `${group[state]} ${state.replace("_", " ")}`);
    setText(this.counts, counts.join(" · "));
    this.policyList.show(group.policies);
    setText(this.trouble, troubleOf(group));
    this.trouble.hidden = !this.trouble.textContent;
    const last = group.last_decision;
    setText(
      this.last,
      last
        ? `${last.time ? `${moment(last.time)}  ` : ""}${last.what}${last.cause ? `: ${last.cause}` : ""}`
        : "No decision so far.",
    );
    this.buttons.show(group);
    this.series?.add(overview);
  }

  begin() {
    this.series?.stop();
    this.series = new LiveSeries(
      this.scope,
      this.span,
      (overview) => ratesOf(this.scope, overview),
      (times, values) => {
        this.capacity.show(times, values);
        this.measure?.show(times, { ...values, target: times.map(() => this.target) });
      },
    );
  }

  end() {
    this.series?.stop();
    this.series = null;
  }

  #choose(one) {
    this.span = one;
    this.spans.forEach((button, n) =>
      button.setAttribute("aria-pressed", String(["5m", "1h"][n] === one)),
    );
    this.begin();
  }
}

function showPolicy(node, one) {
  const [name, meter, value] = node.children;
  setText(name, one.metric.replaceAll("_", " "));
  name.title = one.name;
  const bound = one.target ?? 0;
  meter.max = Math.max(bound * 1.5, 1e-9);
  meter.high = bound;
  meter.optimum = 0;
  meter.value = one.value ?? 0;
  meter.setAttribute(
    "aria-label",
    `${one.metric}: ${measured(one.value, one.unit)} of ${measured(one.target, one.unit)}`,
  );
  setText(value, `${measured(one.value, one.unit)} of ${measured(one.target, one.unit)}`);
}

function troubleOf(group) {
  const said = [];
  if (group.blocked) said.push(`No launch: ${group.blocked}`);
  if (group.suspended.length) said.push(`Suspended: ${group.suspended.join(", ")}`);
  if (group.refused) said.push(`No scale-out: ${group.refused}`);
  if (group.rolled_back) said.push(group.rolled_back);
  if (group.last_failure) said.push(`Last failure: ${group.last_failure}`);
  if (group.refresh) said.push(refreshOf(group.refresh));
  return said.join("\n");
}

function refreshOf(one) {
  const replaced = one.instances - one.left;
  const phase = String(one.phase ?? "").replaceAll("_", " ");
  const counts = Number.isFinite(replaced) ? `: ${replaced} of ${one.instances} replaced` : "";
  return `${one.what ?? "Refresh"}, ${phase}${counts}${one.judgement ? `; ${one.judgement}` : ""}`;
}

export class ScalingView {
  constructor() {
    this.cards = new Map();
    this.groups = h("div", { class: "stack" });
    this.none = h(
      "p",
      { class: "card nothing", hidden: true },
      "No auto scaling group. One comes with `fastlb run --min 2 --max 8 -- COMMAND`.",
    );
    this.list = new KeyedList(
      this.groups,
      (one) => one.name,
      (one) => {
        const card = new GroupCard(one, this.overview.uptime_s);
        this.cards.set(one.name, card);
        card.begin();
        return card.element;
      },
      (node, one) => this.cards.get(one.name).show(one, this.overview),
    );
    this.table = instancesTable((id) => this.#open(id));
    this.element = h("div", { class: "view" }, this.groups, this.none, this.table.element);
  }

  shown() {
    for (const card of this.cards.values()) card.begin();
  }

  hidden() {
    for (const card of this.cards.values()) card.end();
  }

  reconnected() {
    for (const card of this.cards.values()) card.begin();
  }

  show(overview) {
    this.overview = overview;
    const names = new Set(overview.auto_scaling.map((one) => one.name));
    for (const [name, card] of this.cards)
      if (!names.has(name)) {
        card.end();
        this.cards.delete(name);
      }
    this.list.show(overview.auto_scaling);
    this.none.hidden = overview.auto_scaling.length > 0;
    this.table.element.hidden = overview.auto_scaling.length === 0;
    this.table.show(overview.instances);
    this.detail?.show(overview);
  }

  #open(id) {
    this.detail = new InstanceDetail(id, () => (this.detail = null));
    this.detail.show(this.overview);
  }
}
