// Columns and series that more than one view shows.

import { h } from "./dom.js";
import { amount, latency } from "./format.js";

export const REQUESTS = [
  { key: "fine", label: "1xx–3xx", look: "area", color: "c-ok" },
  { key: "errors_4xx", label: "4xx", look: "area", color: "c-warn" },
  { key: "errors_5xx", label: "5xx", look: "area", color: "c-bad" },
];
export const LATENCIES = [
  { key: "p50_s", label: "p50", look: "line", color: "c-1" },
  { key: "p95_s", label: "p95", look: "line", color: "c-2" },
  { key: "p99_s", label: "p99", look: "line", color: "c-3" },
];

export const rateColumns = [
  {
    key: "requests",
    label: "Requests/s",
    text: (one) => amount(one.requests_per_s),
    sort: (one) => one.requests_per_s,
  },
  {
    key: "5xx",
    label: "5xx/s",
    text: (one) => amount(one.status?.["5xx"]),
    sort: (one) => one.status?.["5xx"],
    look: (one) => (one.status?.["5xx"] > 0 ? "bad" : ""),
  },
  { key: "p50", label: "p50", text: (one) => latency(one.p50_s), sort: (one) => one.p50_s },
  { key: "p95", label: "p95", text: (one) => latency(one.p95_s), sort: (one) => one.p95_s },
  { key: "p99", label: "p99", text: (one) => latency(one.p99_s), sort: (one) => one.p99_s },
  {
    key: "in_flight",
    label: "In flight",
    text: (one) => amount(one.in_flight),
    sort: (one) => one.in_flight,
  },
].map((one) => ({ ...one, number: true, live: true, most: true }));

/** The button that opens what can be done with a row. */
export const actionsColumn = (nameOf, open) => ({
  key: "actions",
  label: "Actions",
  quiet: true,
  shape: "actions",
  make: (one) => {
    const name = `Actions for ${nameOf(one)}`;
    return h(
      "button",
      {
        type: "button",
        class: "button icon",
        title: name,
        "aria-label": name,
        onclick: () => open(one),
      },
      "⋯",
    );
  },
  update: () => {},
});
