// The worker processes of the data plane.

import { h } from "./dom.js";
import { amount, bytes, bytesPerSecond, percent } from "./format.js";
import { rateColumns } from "./columns.js";
import { DataTable } from "./tables.js";
import { Badge } from "./targets.js";

const live = (key, label, text) => ({
  key,
  label,
  text: (one) => text(one[key]),
  sort: (one) => one[key],
  number: true,
  live: true,
  most: true,
});
const shown = new Set(["requests", "5xx", "p50", "p95", "p99", "in_flight"]);

export class WorkersView {
  constructor() {
    this.table = new DataTable({
      title: "Workers",
      key: (one) => String(one.index),
      text: (one) => `worker ${one.index} ${one.pid} ${one.state}`,
      sortBy: "index",
      empty: "No worker.",
      columns: [
        {
          key: "index",
          label: "Worker",
          shape: "main",
          text: (one) => `worker ${one.index}`,
          sub: (one) => `pid ${one.pid}`,
          sort: (one) => one.index,
        },
        {
          key: "state",
          label: "State",
          shape: "status",
          sort: (one) => one.state,
          make: Badge.make,
          update: (element, one) => Badge.update(element, one.state),
        },
        live("connections", "Connections", amount),
        live("accepted_per_s", "Accepted/s", amount),
        ...rateColumns.filter((one) => shown.has(one.key)),
        live("cpu_percent", "CPU", percent),
        live("rss_bytes", "RSS", bytes),
        live("bytes_out_per_s", "Out", bytesPerSecond),
      ],
    });
    this.element = h("div", { class: "view" }, this.table.element);
  }

  show(overview) {
    this.table.show(overview.workers);
  }
}
