// What is read out of an overview: what is wrong, and the figures of one scope. Pure.

import { counted } from "./format.js";

/** The reason of a target's state without what changes each second. */
export const reasonOf = (target) => target.reason.replace(/, last [\d.]+ s ago$/, "");

/** What an operator should look at first: {key, text, href, bad}. Pure. */
export function troubles(overview) {
  const found = [];
  const add = (key, text, href, bad = false) => found.push({ key, text, href, bad });
  if (overview.draining)
    add("draining", "The balancer drains: it is on its way to stop.", null, true);
  for (const one of overview.groups) {
    const href = `#targets?${encodeURIComponent(one.name)}`;
    const key = `group ${one.name}`;
    if (one.fail_open)
      add(
        key,
        `${one.name}: no target is healthy; it fails open, all of them get traffic`,
        href,
        true,
      );
    else if (one.targets > 0 && one.healthy === 0)
      add(key, `${one.name}: no target is healthy`, href, true);
    if (one.held > 0)
      add(
        `${key} holds`,
        `${one.name}: ${counted(one.held, "request")} held for want of a target`,
        href,
      );
  }
  const unhealthy = overview.targets.filter((one) => one.state === "unhealthy");
  for (const one of unhealthy.slice(0, 3)) {
    const text = `${one.instance ?? one.address} in ${one.group} is unhealthy: ${reasonOf(one)}`;
    add(
      `target ${one.group}/${one.address}`,
      text,
      `#targets?${encodeURIComponent(one.address)}`,
      true,
    );
  }
  if (unhealthy.length > 3)
    add("more", `${unhealthy.length - 3} more targets are unhealthy`, "#targets?unhealthy", true);
  const suspects = overview.targets.filter(
    (one) => one.suspect && one.state !== "unhealthy",
  ).length;
  if (suspects)
    add(
      "suspects",
      `${counted(suspects, "target")} suspect: under closer watch`,
      "#targets?suspect",
    );
  for (const one of overview.auto_scaling) {
    const key = `scaling ${one.name}`;
    if (one.blocked)
      add(`${key} blocked`, `${one.name}: no launch: ${one.blocked}`, "#scaling", true);
    if (one.suspended.length)
      add(`${key} suspended`, `${one.name}: ${one.suspended.join(", ")} suspended`, "#scaling");
    if (one.refused) add(`${key} refused`, `${one.name}: no scale-out: ${one.refused}`, "#scaling");
  }
  for (const one of overview.workers)
    if (one.state === "hung" || one.state === "dead")
      add(
        `worker ${one.index}`,
        `worker ${one.index} (pid ${one.pid}) is ${one.state}`,
        "#workers",
        true,
      );
  return found;
}

/** Find the figures of a scope, such as `listener:http://…`, in an overview. */
export function ratesOf(scope, overview) {
  if (scope === "all") {
    const listeners = overview.listeners.reduce((sum, one) => sum + (one.connections ?? 0), 0);
    return { connections: listeners, ...overview.totals };
  }
  const [kind, key] = [scope.slice(0, scope.indexOf(":")), scope.slice(scope.indexOf(":") + 1)];
  if (kind === "listener") return overview.listeners.find((one) => one.key === key);
  if (kind === "worker") return overview.workers.find((one) => String(one.index) === key);
  if (kind === "target")
    return overview.targets.find((one) => `${one.group}/${one.address}` === key);
  const group = overview.groups.find((one) => one.name === key);
  const scaling = overview.auto_scaling.find((one) => (one.target_group ?? one.name) === key);
  if (!group || !scaling) return group;
  const { desired, in_service, policies } = scaling;
  return { ...group, desired, in_service, metric: policies[0]?.value ?? null };
}

/** What is said where nothing is wrong. */
export function calmOf({ targets }) {
  const text = targets.length
    ? `${counted(targets.length, "target")}, nothing to look at.`
    : "No targets yet.";
  return { key: "calm", text, look: targets.length ? "ok" : "warn" };
}

export function otherStates(targets) {
  const counts = new Map();
  for (const one of targets)
    if (one.state !== "healthy") counts.set(one.state, (counts.get(one.state) ?? 0) + 1);
  const said = [...counts].map(([state, count]) => `${count} ${state}`);
  return said.length ? said.join(", ") : "all of them";
}
