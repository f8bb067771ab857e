// What the auto scaling groups did, and every decision of scaling, health and routing with its cause.

import { h, KeyedList, setClass, setText } from "./dom.js";
import { moment } from "./format.js";

const SHOWN = 200;

class EntryList {
  constructor(title, entries, empty) {
    this.entries = entries;
    this.filter = h("input", {
      type: "search",
      class: "filter",
      placeholder: "Filter",
      autocomplete: "off",
      "aria-label": `Filter ${title.toLowerCase()}`,
      oninput: () => this.draw(),
    });
    this.rows = h("ol", { class: "entries" });
    this.nothing = h("p", { class: "nothing" }, empty);
    this.list = new KeyedList(this.rows, (one) => one.number, make, update);
    this.element = h(
      "section",
      { class: "card", "aria-label": title },
      h(
        "div",
        { class: "card-head" },
        h("h2", {}, title),
        h("div", { class: "tools" }, this.filter),
      ),
      this.rows,
      this.nothing,
    );
  }

  draw() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [...this.entries.values()]
      .filter((one) => {
        const text =
          `${one.kind} ${one.subject} ${one.what} ${one.cause} ${one.outcome}`.toLowerCase();
        return words.every((word) => text.includes(word));
      })
      .sort((a, b) => b.number - a.number)
      .slice(0, SHOWN);
    this.list.show(found);
    this.nothing.hidden = found.length > 0;
  }
}

function make(entry) {
  const when = h("time", { datetime: new Date(entry.at * 1000).toISOString() });
  const head = h(
    "p",
    {},
    h("span", { class: `kind k-${entry.kind}` }),
    h("span", { class: "subject" }),
    h("span", { class: "what" }),
  );
  return h(
    "li",
    {},
    when,
    h("div", {}, head, h("p", { class: "cause" }), h("p", { class: "outcome" })),
  );
}

/** Of an instance's socket the id, which is the folder's name; what else there is says little. */
const subjectOf = (text) => text.match(/^unix:\/.*\/(i-[0-9a-f]{8})\/[^/]+$/)?.[1] ?? text;

function update(node, entry) {
  const [when, body] = node.children;
  const [head, cause, outcome] = body.children;
  const [kind, subject, what] = head.children;
  setText(when, moment(entry.at));
  setText(kind, entry.kind === "activity" ? "" : entry.kind);
  setText(subject, subjectOf(entry.subject));
  setText(what, entry.what);
  setText(cause, entry.cause);
  const under = entry.kind === "activity" && !entry.outcome && entry.ended === null;
  setText(outcome, under ? "under way…" : (entry.outcome ?? ""));
  const failed = /^(failed|rolled back|stopped|refused)/.test(entry.outcome ?? "");
  setClass(outcome, failed ? "outcome bad" : "outcome");
}

export class HistoryView {
  constructor(history) {
    this.activity = new EntryList(
      "Activity",
      history.activity,
      "Nothing so far: no auto scaling group has done anything.",
    );
    this.decisions = new EntryList("Decisions", history.decision, "No decision so far.");
    this.element = h(
      "div",
      { class: "view halves" },
      this.activity.element,
      this.decisions.element,
    );
  }

  draw() {
    this.activity.draw();
    this.decisions.draw();
  }

  shown() {
    this.draw();
  }

  show() {
    // Entries come by themselves; an overview has none.
  }
}
