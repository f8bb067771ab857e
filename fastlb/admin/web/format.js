// Numbers, times and sizes as a person reads them. Pure: knows neither the page nor the balancer.

const NONE = "–";

/** A number of things, or things a second: 0, 0.04, 3.2, 412, 12.3k. */
export function amount(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(size >= 1e7 ? 1 : 2)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value.toFixed(size >= 10 ? 1 : size >= 1 ? 1 : 2);
}

/** Seconds: 0.84 ms, 31 ms, 1.2 s. */
export function latency(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  const ms = seconds * 1000;
  if (ms >= 1000) return `${(ms / 1000).toFixed(ms >= 10000 ? 0 : 1)} s`;
  return `${ms.toFixed(ms >= 100 ? 0 : ms >= 10 ? 1 : 2)} ms`;
}

/** The same on an axis, where the numbers are round. */
export const latencyMark = (seconds) =>
  seconds >= 1
    ? `${Number(seconds.toFixed(2))} s`
    : `${Number((seconds * 1000).toPrecision(3))} ms`;

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

export const bytesPerSecond = (value) =>
  value === null || value === undefined ? NONE : `${bytes(value)}/s`;

export const percent = (value) =>
  value === null || value === undefined ? NONE : `${value.toFixed(0)} %`;

/** The two largest units: 3 d 4 h, 12 m 5 s, 41 s. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  const whole = Math.max(0, Math.floor(seconds));
  const parts = [
    [Math.floor(whole / 86400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "m"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([number]) => number > 0);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .map(([number, unit]) => `${number} ${unit}`)
    .join(" ");
}

/** One unit, short: 41s, 12m, 5h, 9d. */
export function age(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 100) return `${Math.floor(seconds)}s`;
  if (seconds < 6000) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86400)}d`;
}

const two = (number) => String(number).padStart(2, "0");

/** The local time of day of a unix time, with its day where that is not today. */
export function clock(at, seconds = true) {
  const moment = new Date(at * 1000);
  const time = `${two(moment.getHours())}:${two(moment.getMinutes())}`;
  return seconds ? `${time}:${two(moment.getSeconds())}` : time;
}

export function moment(at, now = Date.now() / 1000) {
  const then = new Date(at * 1000);
  const today = new Date(now * 1000);
  if (then.toDateString() === today.toDateString()) return clock(at);
  return `${then.getFullYear()}-${two(then.getMonth() + 1)}-${two(then.getDate())} ${clock(at)}`;
}

/** A policy's value in its unit. Sizes and times come as bytes and seconds. */
export function measured(value, unit) {
  if (value === null || value === undefined) return "?";
  if (unit === "bytes") return bytes(value);
  if (unit === "s") return latency(value);
  return unit ? `${amount(value)} ${unit}` : amount(value);
}

export function counted(number, noun) {
  if (number === 1) return `1 ${noun}`;
  return noun.endsWith("y") ? `${number} ${noun.slice(0, -1)}ies` : `${number} ${noun}s`;
}
