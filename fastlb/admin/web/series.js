// The points of the charts: fetched once, continued from each overview, fetched anew at times.

import { ask } from "./feed.js";

const RENEW_SECONDS = { "5m": 60, "1h": 10 };
const POINTS = { "5m": 300, "1h": 360 };

export class LiveSeries {
  /** `pick` finds the scope's figures in an overview; `changed(times, values)` is called for each change. */
  constructor(scope, span, pick, changed) {
    this.scope = scope;
    this.span = span;
    this.pick = pick;
    this.changed = changed;
    this.step = 1;
    this.end = null;
    this.values = {};
    this.loaded = 0;
    this.aborter = new AbortController();
    this.load();
  }

  async load() {
    this.loaded = Date.now();
    const query = new URLSearchParams({ scope: this.scope, span: this.span });
    let answer;
    try {
      answer = await ask(`series?${query}`, undefined, this.aborter.signal);
    } catch {
      return; // without a past, or without a server, which the page says elsewhere
    }
    if (this.aborter.signal.aborted) return;
    this.step = answer.step;
    this.end = answer.end;
    this.values = Object.fromEntries(
      Object.entries(answer.series).map(([key, values]) => [
        key,
        padded(values, POINTS[this.span]),
      ]),
    );
    this.#tell();
  }

  add(overview) {
    if (Date.now() - this.loaded > RENEW_SECONDS[this.span] * 1000) {
      this.load();
      return;
    }
    const rates = this.pick(overview);
    if (this.span !== "5m" || this.end === null || !rates) return;
    const now = Math.floor(overview.time);
    const missed = now - this.end;
    if (missed <= 0) return;
    const point = pointOf(rates);
    for (const [key, values] of Object.entries(this.values)) {
      // Seconds that were waited for are in the rates of this one; a longer silence is a gap.
      const between = missed <= 2 ? (point[key] ?? null) : null;
      for (let n = 1; n < missed && n < values.length; n += 1) values.push(between);
      values.push(point[key] ?? null);
      values.splice(0, values.length - POINTS[this.span]);
    }
    this.end = now;
    this.#tell();
  }

  stop() {
    this.aborter.abort();
  }

  #tell() {
    const points = POINTS[this.span];
    const times = Array.from({ length: points }, (_, n) => this.end - this.step * (points - 1 - n));
    const { requests, errors_4xx: client, errors_5xx: server } = this.values;
    const fine = requests?.map((all, n) =>
      all === null ? null : Math.max(0, all - (client?.[n] ?? 0) - (server?.[n] ?? 0)),
    );
    this.changed(times, { ...this.values, fine });
  }
}

function pointOf(rates) {
  return {
    requests: rates.requests_per_s,
    errors_4xx: rates.status?.["4xx"],
    errors_5xx: rates.status?.["5xx"],
    p50_s: rates.p50_s,
    p95_s: rates.p95_s,
    p99_s: rates.p99_s,
    in_flight: rates.in_flight,
    connections: rates.connections,
    desired: rates.desired,
    in_service: rates.in_service,
    metric: rates.metric,
  };
}

/** As many points as the span has; those before the first one are not known. */
const padded = (values, points) =>
  [...Array(Math.max(0, points - values.length)).fill(null), ...values].slice(-points);
