// The instances of auto scaling groups, and one of them in detail with its actions.

import { instanceActions } from "./actions.js";
import { openDialog } from "./dialogs.js";
import { actionsColumn, rateColumns } from "./columns.js";
import { h, setText } from "./dom.js";
import { age, bytes, percent, span } from "./format.js";
import { DataTable } from "./tables.js";
import { ActionButtons, Badge } from "./targets.js";

const LATENCY = new Set(["p50", "p95", "p99"]);

/** What an instance is: of one in service that is not well, its health. */
function stateOf(one) {
  const well = one.health === "healthy" || !one.health;
  return one.state === "in_service" && !well ? one.health : one.state;
}

function aboutOf(one) {
  const well = stateOf(one) === "in_service";
  return [one.protected ? "protected" : "", well ? one.address : one.reason]
    .filter(Boolean)
    .join(" · ");
}

export function instancesTable(open) {
  const live = { number: true, live: true, most: true };
  return new DataTable({
    title: "Instances",
    key: (one) => one.id,
    text: (one) => `${one.id} ${one.group} ${stateOf(one)} ${one.health} ${one.pid ?? ""}`,
    sortBy: "age",
    empty: "No instance.",
    columns: [
      {
        key: "id",
        label: "Instance",
        shape: "main",
        text: (one) => one.id,
        sub: aboutOf,
        sort: (one) => one.id,
      },
      {
        key: "state",
        label: "State",
        shape: "status",
        sort: stateOf,
        make: Badge.make,
        update: (element, one) => Badge.update(element, stateOf(one)),
      },
      { key: "group", label: "Group", text: (one) => one.group, sort: (one) => one.group },
      {
        key: "pid",
        label: "Pid",
        number: true,
        text: (one) => (one.pid ? String(one.pid) : "–"),
        sort: (one) => one.pid,
      },
      {
        key: "version",
        label: "Template",
        number: true,
        text: (one) => `v${one.template_version}`,
        sort: (one) => one.template_version,
        most: true,
      },
      {
        key: "age",
        label: "Age",
        number: true,
        text: (one) => age(one.age_s),
        sort: (one) => one.age_s,
        most: true,
      },
      {
        key: "cpu",
        label: "CPU",
        ...live,
        text: (one) => percent(one.cpu_percent),
        sort: (one) => one.cpu_percent,
      },
      {
        key: "rss",
        label: "RSS",
        ...live,
        text: (one) => bytes(one.rss_bytes),
        sort: (one) => one.rss_bytes,
      },
      ...rateColumns.filter((one) => LATENCY.has(one.key)),
      actionsColumn(
        (one) => one.id,
        (one) => open(one.id),
      ),
    ],
  });
}

export class InstanceDetail {
  constructor(id, closed) {
    this.id = id;
    this.badge = Badge.make();
    this.why = h("p", { class: "why" });
    this.buttons = new ActionButtons(instanceActions);
    const content = h(
      "div",
      { class: "detail" },
      h("div", { class: "detail-state" }, this.badge, this.why),
      this.buttons.element,
    );
    openDialog(`Instance ${id}`, content, closed);
  }

  show(overview) {
    const one = overview.instances.find((instance) => instance.id === this.id);
    if (!one) {
      Badge.update(this.badge, "gone");
      setText(this.why, "This instance has ended.");
      this.buttons.element.replaceChildren();
      return;
    }
    Badge.update(this.badge, stateOf(one));
    const facts = [
      `group ${one.group}`,
      one.pid ? `pid ${one.pid}` : "",
      `template v${one.template_version}`,
      `age ${span(one.age_s)}`,
      one.protected ? "protected" : "",
      one.reason ?? "",
    ];
    setText(this.why, facts.filter(Boolean).join(" · "));
    this.buttons.show(one);
  }
}
