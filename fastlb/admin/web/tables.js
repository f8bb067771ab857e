// Tables that can be sorted and filtered, and stay still while their figures change. Knows columns and
// rows, and nothing of what they mean.

import { h, KeyedList, setAttribute, setClass, setText } from "./dom.js";

const FIRST_ROWS = 100;
const RESORT_SECONDS = 5;
/** Rows that are out of sight are brought up to date that often, and when they come into sight. */
const UNSEEN_SECONDS = 10;
/** Fewer rows than this need no filter. */
const FILTERED_FROM = 8;

/**
 * Columns are {key, label, sort: row => value, number, live, most} and one of
 *   text: row => string, with sub: row => string for a second, quieter line, and look: row => class;
 *   make: row => element, with update: (element, row) => void.
 * `when: row => boolean` leaves the column out where it is false for all rows.
 * `most` sorts the greatest first. `live` says that the value changes each second: such an order is
 * renewed at times only, and never under the pointer or the focus.
 */
export class DataTable {
  constructor({ title, columns, key, text, sortBy, empty, action }) {
    this.columns = columns;
    this.key = key;
    this.text = text;
    this.rows = [];
    this.order = new Map();
    this.ordered = 0;
    this.limit = FIRST_ROWS;
    this.sorted = columns.find((one) => one.key === sortBy) ?? columns[0];
    this.backwards = false;

    this.heads = columns.map((column) => this.#head(column));
    this.count = h("span", { class: "count" });
    this.filter = h("input", {
      type: "search",
      class: "filter",
      placeholder: "Filter",
      "aria-label": `Filter ${title.toLowerCase()}`,
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => this.#reorder(),
    });
    this.sorter = h(
      "select",
      {
        class: "sorter",
        "aria-label": `Sort ${title.toLowerCase()} by`,
        onchange: () => this.#chosen(),
      },
      columns
        .filter((one) => one.sort)
        .map((one) => h("option", { value: one.key }, `By ${one.label.toLowerCase()}`)),
    );
    this.sorter.value = this.sorted.key;
    this.tools = h("div", { class: "tools" }, this.filter, this.sorter, action ?? null);
    this.body = h("tbody", { role: "rowgroup" });
    this.more = h("button", {
      type: "button",
      class: "button more",
      onclick: () => this.#showAll(),
    });
    this.nothing = h("p", { class: "nothing" }, empty);
    const heads = h("tr", { role: "row" }, this.heads);
    this.element = h(
      "section",
      { class: "card table-card", "aria-label": title },
      h("div", { class: "card-head" }, h("h2", {}, title, this.count), this.tools),
      h(
        "div",
        { class: "table-box" },
        // What is laid out as cards on a phone keeps its meaning by these roles.
        h(
          "table",
          { role: "table", "aria-label": title },
          h("thead", { role: "rowgroup" }, heads),
          this.body,
        ),
      ),
      this.nothing,
      this.more,
    );
    this.list = new KeyedList(
      this.body,
      key,
      (row) => this.#row(row),
      (node, row) => this.#update(node, row),
      (node) => this.watcher.unobserve(node),
    );
    this.items = new WeakMap();
    this.seen = new WeakSet();
    this.filledAll = 0;
    this.watcher = new IntersectionObserver((entries) => this.#sight(entries), {
      rootMargin: "300px",
    });
    this.#markSorted();
  }

  show(rows) {
    this.rows = rows;
    this.#draw();
  }

  /** Show what contains `text`, as if it had been typed. */
  filterBy(text) {
    this.filter.value = text;
    this.#reorder();
  }

  #head(column) {
    const properties = {
      role: "columnheader",
      scope: "col",
      class: column.number ? "number" : null,
    };
    if (!column.sort)
      return h(
        "th",
        properties,
        h("span", { class: column.quiet ? "unseen" : null }, column.label),
      );
    const press = () => {
      if (this.sorted === column) this.backwards = !this.backwards;
      else this.#sortBy(column);
      this.#reorder();
    };
    return h("th", properties, h("button", { type: "button", onclick: press }, column.label));
  }

  #sortBy(column) {
    this.sorted = column;
    this.backwards = false;
    this.sorter.value = column.key;
  }

  #chosen() {
    this.#sortBy(this.columns.find((one) => one.key === this.sorter.value));
    this.#reorder();
  }

  #markSorted() {
    this.columns.forEach((column, n) => {
      const down = Boolean(column.most) !== this.backwards;
      const order = column === this.sorted ? (down ? "descending" : "ascending") : null;
      setAttribute(this.heads[n], "aria-sort", order);
    });
  }

  #reorder() {
    this.order.clear();
    this.#markSorted();
    this.#draw();
  }

  #showAll() {
    this.limit = Infinity;
    this.#draw();
    this.body.querySelectorAll("tr")[FIRST_ROWS]?.querySelector("button")?.focus();
  }

  /** Where each row stands: as it was, while somebody is at the rows or the order is a fresh one. */
  #sortedRows(rows) {
    const now = performance.now() / 1000;
    const touched = this.body.matches(":hover") || this.body.contains(document.activeElement);
    const keep = this.sorted.live && (touched || now - this.ordered < RESORT_SECONDS);
    const known = rows.every((row) => this.order.has(this.key(row)));
    if (!(keep && known)) {
      const sign = Boolean(this.sorted.most) !== this.backwards ? -1 : 1;
      const decorated = rows.map((row) => ({ key: this.key(row), value: this.sorted.sort(row) }));
      decorated.sort((a, b) => compare(a.value, b.value, sign) || compare(a.key, b.key, 1));
      this.order = new Map(decorated.map((one, n) => [one.key, n]));
      this.ordered = now;
    }
    return rows.toSorted((a, b) => this.order.get(this.key(a)) - this.order.get(this.key(b)));
  }

  #draw() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = words.length
      ? this.rows.filter((row) => {
          const text = this.text(row).toLowerCase();
          return words.every((word) => text.includes(word));
        })
      : this.rows;
    this.columns.forEach((column, n) => {
      if (!column.when) return;
      const hidden = !this.rows.some(column.when);
      this.heads[n].hidden = hidden;
      const option = [...this.sorter.options].find((one) => one.value === column.key);
      if (option) option.hidden = hidden;
    });
    const now = performance.now() / 1000;
    this.fillAll = now - this.filledAll > UNSEEN_SECONDS;
    if (this.fillAll) this.filledAll = now;
    this.list.show(this.#sortedRows(matching).slice(0, this.limit));
    const all = this.rows.length;
    setText(this.count, words.length ? ` ${matching.length} of ${all}` : ` ${all}`);
    this.tools.classList.toggle("few", all < FILTERED_FROM && !words.length);
    this.nothing.hidden = matching.length > 0;
    this.more.hidden = matching.length <= this.limit;
    setText(this.more, `Show all ${matching.length}`);
  }

  #row(row) {
    const cells = this.columns.map((column) => {
      const label = column.quiet ? "" : column.label;
      const shape = ["cell", column.number ? "number" : "", column.shape ?? ""]
        .filter(Boolean)
        .join(" ");
      const cell = h("td", { role: "cell", class: shape, "data-label": label });
      if (column.make) cell.append(column.make(row));
      else {
        cell.append(h("span", { class: "value" }));
        if (column.sub) cell.append(h("span", { class: "sub" }));
      }
      return cell;
    });
    const node = h("tr", { role: "row" }, cells);
    this.#fill(node, row);
    this.watcher.observe(node);
    return node;
  }

  #update(node, row) {
    this.items.set(node, row);
    if (this.seen.has(node) || this.fillAll) this.#fill(node, row);
  }

  /** A thousand rows of changing figures cost a browser too much; a screenful does not. */
  #sight(entries) {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) this.seen.delete(target);
      else {
        this.seen.add(target);
        if (this.items.has(target)) this.#fill(target, this.items.get(target));
      }
    }
  }

  #fill(node, row) {
    this.columns.forEach((column, n) => {
      const cell = node.children[n];
      cell.hidden = this.heads[n].hidden;
      if (column.update) column.update(cell.firstElementChild, row);
      else if (column.text) {
        const value = cell.children[0];
        const text = column.text(row);
        setText(value, text);
        if (column.look) setClass(value, `value ${column.look(row)}`);
        if (column.titled) setAttribute(value, "title", text);
        if (column.sub) {
          const sub = column.sub(row);
          setText(cell.children[1], sub);
          setAttribute(cell.children[1], "title", sub);
        }
      }
    });
  }
}

/** What is not known comes last in either direction. */
function compare(a, b, sign) {
  if (a === b) return 0;
  if (a === null || a === undefined) return 1;
  if (b === null || b === undefined) return -1;
  if (typeof a === "string" || typeof b === "string")
    return sign * String(a).localeCompare(String(b), "en", { numeric: true });
  return a < b ? -sign : sign;
}
