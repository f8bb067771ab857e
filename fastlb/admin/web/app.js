// The page: one view at a time, the connection's state, the login, the colours.
//
// Views are objects with `element` and `show(overview)`; they are made when they are first asked for and
// kept, and only the one that is seen is drawn.

import { reload } from "./actions.js";
import { byId, setAttribute, setText } from "./dom.js";
import { note } from "./dialogs.js";
import { ask, Feed } from "./feed.js";
import { span } from "./format.js";
import { HistoryView } from "./history.js";
import { OverviewView } from "./overview.js";
import { ScalingView } from "./scaling.js";
import { TargetsView } from "./targets.js";
import { WorkersView } from "./workers.js";

const VIEWS = {
  overview: OverviewView,
  targets: TargetsView,
  scaling: ScalingView,
  workers: WorkersView,
  history: HistoryView,
};
const THEMES = { auto: ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] };

const made = {};
let current = null;
let overview = null;

const history = { activity: new Map(), decision: new Map(), changed: () => made.history?.draw() };

const feed = new Feed({
  overview: (value) => {
    overview = value;
    showHead();
    current?.show(value);
  },
  activity: (entry) => remember("activity", entry),
  decision: (entry) => remember("decision", entry),
  state: showConnection,
});

function remember(kind, entry) {
  const entries = history[kind];
  entries.set(entry.number, entry);
  if (entries.size > 500) entries.delete(entries.keys().next().value);
  history.changed();
}

async function loadHistory() {
  for (const [kind, path] of [
    ["activity", "activity?limit=200"],
    ["decision", "decisions?limit=200"],
  ]) {
    try {
      for (const entry of (await ask(path)).entries) history[kind].set(entry.number, entry);
    } catch {
      return; // the page says elsewhere that nobody answers; it is asked again when it is there
    }
  }
  history.changed();
}

// -- head

function showHead() {
  setText(byId("name"), overview.name);
  document.title = `${overview.name} · fastlb`;
  const draining = overview.draining ? "DRAINING · " : "";
  const about = `${draining}up ${span(overview.uptime_s)} · ${overview.version} · pid ${overview.pid}`;
  setText(byId("about"), about);
}

let wasLive = false;

function showConnection(state, since) {
  const words = {
    connecting: "Connecting…",
    live: "Live",
    lost: "Disconnected",
    refused: "Signed out",
  };
  setAttribute(byId("connection"), "data-state", state);
  setText(byId("connection-text"), words[state]);
  const lost = state === "lost" && (since !== null || !overview);
  const outage = byId("outage");
  if (lost) {
    const when = since
      ? `the figures are of ${new Date(since).toLocaleTimeString("en-GB")}`
      : "no figures yet";
    setText(
      outage,
      `No connection to the balancer's admin server: ${when}. Trying again by itself.`,
    );
  }
  outage.hidden = !lost;
  document.body.classList.toggle("stale", lost);
  byId("login").hidden = state !== "refused";
  byId("content").hidden = state === "refused";
  if (state === "refused") byId("token").focus();
  if (state === "live") {
    loadHistory();
    if (wasLive) current?.reconnected?.();
    wasLive = true;
  }
}

// -- views

function route() {
  const [name, filter] = location.hash.slice(1).split("?");
  const known = name in VIEWS ? name : "overview";
  made[known] ??= new VIEWS[known](history);
  if (current !== made[known]) {
    current?.hidden?.();
    current = made[known];
    byId("content").replaceChildren(current.element);
    current.shown?.();
    window.scrollTo(0, 0);
  }
  if (filter !== undefined) current.filterBy?.(decodeURIComponent(filter));
  for (const link of byId("nav").children)
    setAttribute(link, "aria-current", link.hash === `#${known}` ? "page" : null);
  if (overview) current.show(overview);
}

byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("content").focus();
});
window.addEventListener("hashchange", route);

// -- controls

byId("reload").addEventListener("click", reload);

function showTheme() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  setText(byId("theme"), THEMES[theme][0]);
  setAttribute(byId("theme"), "aria-label", `Colours: ${THEMES[theme][1]}. Change`);
  setAttribute(byId("theme"), "title", `Colours: ${THEMES[theme][1]}`);
}

byId("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next =
    names[(names.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % names.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("fastlb-theme", next);
  } catch {
    note("The browser keeps no settings: the colours hold for this page only.");
  }
  showTheme();
});

showTheme();
route();
feed.open();
