// The connection to the admin server: its events, its answers, and whether it is there.
//
// Knows the paths and nothing of what is shown. The browser renews a broken stream by itself; where the
// server refuses one, only a request can say why, and then it is tried again here.

const STALE_SECONDS = 4;
const RETRY_SECONDS = 2;
const API = "/api/v1/";

/** What the server said against a request, for a person. `status` is 0 where nobody answered. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The answer of a GET, or of a POST where there is a body. Raises Refused. */
export async function ask(path, body, signal) {
  const options =
    body === undefined
      ? { signal }
      : {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify(body),
        };
  let response;
  try {
    response = await fetch(API + path, { cache: "no-store", ...options });
  } catch {
    throw new Refused("the balancer's admin server gives no answer", 0);
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok)
    throw new Refused(answer.error ?? `the server answered ${response.status}`, response.status);
  return answer;
}

/**
 * Calls `handlers`: overview(value), activity(entry), decision(entry), state(state, since), where the
 * state is "connecting", "live", "lost" or "refused" (a login is wanted), and `since` the time in ms of
 * the last overview or null.
 */
export class Feed {
  constructor(handlers) {
    this.handlers = handlers;
    this.state = "connecting";
    this.last = null;
    this.source = null;
    this.again = null;
    setInterval(() => this.#watch(), 1000);
  }

  open() {
    clearTimeout(this.again);
    this.source?.close();
    const source = new EventSource(`${API}events`);
    this.source = source;
    this.opened = Date.now();
    source.addEventListener("overview", (event) => {
      this.last = Date.now();
      this.#set("live");
      this.handlers.overview(JSON.parse(event.data));
    });
    for (const kind of ["activity", "decision"])
      source.addEventListener(kind, (event) => this.handlers[kind](JSON.parse(event.data)));
    source.addEventListener("error", () => this.#failed(source));
  }

  close() {
    clearTimeout(this.again);
    this.source?.close();
    this.source = null;
  }

  async #failed(source) {
    if (source !== this.source) return;
    this.#set("lost");
    if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    this.close();
    try {
      await ask("overview");
    } catch (error) {
      if (error.status === 401) {
        this.#set("refused");
        return;
      }
    }
    this.again = setTimeout(() => this.open(), RETRY_SECONDS * 1000);
  }

  /** A connection may stand and be silent: a laptop that slept, a cable that was pulled. */
  #watch() {
    const silent = Date.now() - Math.max(this.last ?? 0, this.opened ?? 0);
    if (this.source && silent > STALE_SECONDS * 1000) {
      this.#set("lost");
      if (silent > 4 * STALE_SECONDS * 1000) this.open();
    }
    if (this.state === "lost") this.handlers.state(this.state, this.last);
  }

  #set(state) {
    if (state === this.state && state !== "refused") return;
    this.state = state;
    this.handlers.state(state, this.last);
  }
}
