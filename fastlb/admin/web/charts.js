// Time charts in SVG. Knows points and colours' names, and nothing of what they mean.
//
// A chart has a fixed height and takes its width from the page. Its values are read at the pointer, or
// with the arrow keys once it has the focus.

import { clock } from "./format.js";
import { h, setText, svg } from "./dom.js";

const HEIGHT = 168;
const LEFT = 52;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 22;
const WIDTH_BEFORE_LAYOUT = 480;

/** Round numbers up to at least `most`, from 0: at most five of them. */
function ticks(most, whole) {
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  if (whole) step = Math.max(1, Math.ceil(step));
  const found = [0];
  while (found[found.length - 1] < most - step * 1e-6) found.push(found.length * step);
  return found;
}

/** Round times, as many as have room. */
function timeTicks(from, to, width) {
  const most = Math.max(2, width / 56);
  const step = [30, 60, 120, 300, 600, 900].find((one) => (to - from) / one <= most) ?? 1800;
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}

export class Chart {
  /**
   * `series`: [{key, label, look: "area" | "line" | "step" | "dashed", color}]; areas are stacked in
   * their order. `format` says a value, `axis` one of the round numbers at the side; `whole` keeps the axis to whole numbers; `least` is what the
   * axis reaches at least.
   */
  constructor({ title, series, format, axis = format, whole = false, least = 1 }) {
    this.series = series;
    this.format = format;
    this.axis = axis;
    this.whole = whole;
    this.least = least;
    this.times = [];
    this.values = {};
    this.cursor = null;
    this.width = WIDTH_BEFORE_LAYOUT;

    this.grid = svg("g", { class: "chart-grid" });
    this.paths = series.map((one) => ({
      ...one,
      fill: one.look === "area" ? svg("path", { class: `fill ${one.color}` }) : null,
      line: svg("path", { class: `stroke ${one.color} ${one.look}` }),
    }));
    this.crosshair = svg("line", { class: "crosshair", y1: TOP, y2: HEIGHT - BOTTOM });
    this.empty = svg("text", { class: "chart-empty", y: HEIGHT / 2, "text-anchor": "middle" });
    this.drawing = svg(
      "svg",
      { class: "chart-drawing", height: HEIGHT, tabindex: "0", role: "img", "aria-label": title },
      this.grid,
      this.paths.map((one) => [one.fill, one.line]).flat(),
      this.crosshair,
      this.empty,
    );
    this.legend = series.map((one) => {
      const value = h("span", { class: "legend-value" }, "–");
      const swatch = h("span", { class: `swatch ${one.color} ${one.look}` });
      return {
        ...one,
        value,
        element: h("span", { class: "legend-item" }, swatch, one.label, value),
      };
    });
    this.when = h("span", { class: "chart-when" });
    this.element = h(
      "figure",
      { class: "chart card" },
      h("figcaption", {}, h("span", { class: "chart-title" }, title), this.when),
      h(
        "div",
        { class: "legend" },
        this.legend.map((one) => one.element),
      ),
      h("div", { class: "chart-box" }, this.drawing),
    );
    this.drawing.addEventListener("pointermove", (event) => this.#point(event));
    this.drawing.addEventListener("pointerdown", (event) => this.#point(event));
    this.drawing.addEventListener("pointerleave", () => this.#moveTo(null));
    this.drawing.addEventListener("blur", () => this.#moveTo(null));
    this.drawing.addEventListener("keydown", (event) => this.#key(event));
    this.sized = new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (width > 0 && width !== this.width) {
        this.width = width;
        this.draw();
      }
    });
    this.sized.observe(this.drawing.parentElement);
  }

  /** `times` in unix seconds, evenly apart; `values` a list of the same length for each key. */
  show(times, values) {
    const step = times.length > 1 ? times[1] - times[0] : 1;
    if (this.cursor !== null && this.times.length)
      this.cursor -= Math.round((times[0] - this.times[0]) / step); // it stays at its moment
    this.times = times;
    this.values = values;
    this.draw();
  }

  remove() {
    this.sized.disconnect();
    this.element.remove();
  }

  draw() {
    const { times, width } = this;
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.empty.setAttribute("x", width / 2);
    const stacked = this.#stacked();
    let most = this.least;
    for (const one of this.paths)
      for (const value of stacked.get(one.key).top) if (value > most) most = value;
    const marks = ticks(most, this.whole);
    const top = marks[marks.length - 1];
    const [from, to] = [times[0] ?? 0, times[times.length - 1] ?? 1];
    this.x = (index) => LEFT + ((width - LEFT - RIGHT) * index) / Math.max(1, times.length - 1);
    const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * value) / top;
    const grid = [];
    for (const mark of marks)
      grid.push(
        svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(mark), y2: y(mark) }),
        svg("text", { x: LEFT - 8, y: y(mark) + 4, "text-anchor": "end" }, this.axis(mark)),
      );
    if (times.length > 1)
      for (const at of timeTicks(from, to, width - LEFT - RIGHT)) {
        const x = LEFT + ((width - LEFT - RIGHT) * (at - from)) / (to - from);
        if (x < LEFT + 14 || x > width - RIGHT - 14) continue;
        grid.push(
          svg("text", { x, y: HEIGHT - 6, "text-anchor": "middle" }, clock(at, to - from < 200)),
        );
      }
    this.grid.replaceChildren(...grid);
    let any = false;
    for (const one of this.paths) {
      const { top: tops, base } = stacked.get(one.key);
      any ||= tops.some((value) => value !== null);
      one.line.setAttribute("d", outline(tops, this.x, y, one.look === "step"));
      one.fill?.setAttribute("d", filled(tops, base, this.x, y));
    }
    setText(this.empty, any ? "" : "no data yet");
    this.#moveTo(this.cursor);
  }

  #stacked() {
    const found = new Map();
    let under = null;
    for (const one of this.paths) {
      const own = this.values[one.key] ?? this.times.map(() => null);
      if (one.look !== "area") {
        found.set(one.key, { top: own, base: null });
        continue;
      }
      const base = under;
      const top = own.map((value, n) => (value === null ? null : value + (base?.[n] ?? 0)));
      found.set(one.key, { top, base });
      under = top.map((value, n) => value ?? base?.[n] ?? 0);
    }
    return found;
  }

  #point(event) {
    const box = this.drawing.getBoundingClientRect();
    const at = ((event.clientX - box.left) * this.width) / box.width;
    const share = (at - LEFT) / (this.width - LEFT - RIGHT);
    this.#moveTo(Math.round(share * (this.times.length - 1)));
  }

  #key(event) {
    const last = this.times.length - 1;
    const at = this.cursor ?? last;
    const page = Math.max(1, Math.round(last / 12));
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - page, PageDown: at + page };
    const target = { ...moves, Home: 0, End: last, Escape: null }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.#moveTo(target);
  }

  /** The values at one point in the legend; the latest ones where there is no cursor. */
  #moveTo(index) {
    const last = this.times.length - 1;
    if (index !== null && last >= 0) index = Math.max(0, Math.min(last, index));
    this.cursor = last < 0 ? null : index;
    const shown = this.cursor ?? last;
    this.crosshair.classList.toggle("shown", this.cursor !== null);
    if (this.cursor !== null) {
      this.crosshair.setAttribute("x1", this.x(this.cursor));
      this.crosshair.setAttribute("x2", this.x(this.cursor));
    }
    setText(this.when, this.cursor === null ? "" : clock(this.times[this.cursor]));
    const said = [];
    for (const one of this.legend) {
      const text = this.format(this.values[one.key]?.[shown] ?? null);
      setText(one.value, text);
      said.push(`${one.label} ${text}`);
    }
    if (document.activeElement === this.drawing || this.cursor === null) {
      const title = this.element.querySelector(".chart-title").textContent;
      const at = this.cursor === null ? "now" : clock(this.times[this.cursor]);
      this.drawing.setAttribute("aria-label", `${title}, ${at}: ${said.join(", ")}`);
    }
  }
}

const point = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;

/** A line through the values, with a gap where there is none. */
function outline(values, x, y, steps) {
  let path = "";
  let pen = false;
  values.forEach((value, n) => {
    if (value === null || value === undefined) {
      pen = false;
      return;
    }
    if (!pen) path += `M${point(x(n), y(value))}`;
    else if (steps) path += `H${x(n).toFixed(1)}V${y(value).toFixed(1)}`;
    else path += `L${point(x(n), y(value))}`;
    pen = true;
  });
  return path;
}

/** The area between the values and what is under them. */
function filled(tops, base, x, y) {
  let path = "";
  let start = null;
  for (let n = 0; n <= tops.length; n += 1) {
    const value = tops[n];
    if (value !== null && value !== undefined) {
      path += `${start === null ? "M" : "L"}${point(x(n), y(value))}`;
      start ??= n;
    } else if (start !== null) {
      for (let back = n - 1; back >= start; back -= 1)
        path += `L${point(x(back), y(base?.[back] ?? 0))}`;
      path += "Z";
      start = null;
    }
  }
  return path;
}

/** A small line without axes, for a tile. */
export class Sparkline {
  constructor(color, most = 60) {
    this.most = most;
    this.values = [];
    this.line = svg("path", { class: `stroke ${color} line` });
    this.fill = svg("path", { class: `fill ${color}` });
    this.element = svg(
      "svg",
      {
        class: "sparkline",
        viewBox: "0 0 120 28",
        preserveAspectRatio: "none",
        "aria-hidden": "true",
      },
      this.fill,
      this.line,
    );
  }

  begin(values) {
    this.values = values.slice(-this.most);
    this.draw();
  }

  add(value) {
    this.values.push(value);
    if (this.values.length > this.most) this.values.shift();
    this.draw();
  }

  draw() {
    const top = Math.max(...this.values.map((one) => one ?? 0), 1e-9) * 1.1;
    const offset = this.most - this.values.length;
    const x = (n) => ((n + offset) * 120) / (this.most - 1);
    const y = (value) => 27 - (26 * value) / top;
    this.line.setAttribute("d", outline(this.values, x, y, false));
    this.fill.setAttribute("d", filled(this.values, null, x, y));
  }
}
