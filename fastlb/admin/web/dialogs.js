// Dialogs that ask before something is done, and the notes that say what became of it.

import { ask } from "./feed.js";
import { byId, h } from "./dom.js";

const NOTE_SECONDS = 8;
const MOST_NOTES = 4;

let opened = 0;

/** An outcome, read out by screen readers. What went wrong stays until it is closed. */
export function note(text, failed = false) {
  const notes = byId(failed ? "alerts" : "notes");
  const close = h("button", { type: "button", class: "close", "aria-label": "Close" }, "×");
  const element = h("div", { class: failed ? "note failed" : "note" }, h("p", {}, text), close);
  const remove = () => element.remove();
  close.addEventListener("click", remove);
  notes.append(element);
  while (notes.children.length > MOST_NOTES) notes.firstElementChild.remove();
  if (!failed) setTimeout(remove, NOTE_SECONDS * 1000);
}

/** Behind a modal dialog nothing is read out, nor can it be pressed: the notes go where the user is. */
function bringNotes() {
  const dialogs = document.querySelectorAll("dialog[open]");
  const home = dialogs[dialogs.length - 1] ?? document.body;
  const notes = byId("toasts");
  if (notes.parentElement !== home) home.append(notes);
}

/** Do it and say what was done. Raises Refused. */
export async function tell(path, body = {}) {
  const answer = await ask(path, body);
  note([answer.said ?? "done", answer.warning].filter(Boolean).join("\n"));
}

/** The same for a button alone: what was refused is a note as well. */
export async function act(path, body, button) {
  button.disabled = true;
  try {
    await tell(path, body);
  } catch (error) {
    note(error.message, true);
  } finally {
    button.disabled = false;
  }
}

/** A modal dialog; Escape and the backdrop close it, and the focus goes back to where it was. */
export function openDialog(title, content, onclose = () => {}) {
  opened += 1;
  const id = `dialog-title-${opened}`; // one may stand over another
  const heading = h("h2", { id, tabindex: "-1" }, title);
  const close = h("button", { type: "button", class: "close", "aria-label": "Close" }, "×");
  const dialog = h(
    "dialog",
    { "aria-labelledby": id },
    h("div", { class: "dialog-head" }, heading, close),
    content,
  );
  const before = document.activeElement;
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("pointerdown", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    bringNotes();
    dialog.remove();
    onclose();
    if (before?.isConnected) before.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  bringNotes();
  heading.focus();
  return dialog;
}

/**
 * A form in a dialog: `text` says what will happen; `fields` are {name, label, type: "number" | "text" |
 * "check", value, min, max, hint}. `send` gets their values by name; what it raises is shown in the form,
 * which stays.
 */
export function askFirst({ title, text, fields = [], verb, hurts = false, send }) {
  const problem = h("p", { class: "problem", role: "alert" });
  const inputs = fields.map(field);
  const go = h(
    "button",
    { type: "submit", class: hurts ? "button danger" : "button primary" },
    verb,
  );
  const cancel = h("button", { type: "button", class: "button" }, "Cancel");
  const form = h(
    "form",
    { method: "dialog", class: "ask", novalidate: true },
    [text].flat().map((one) => h("p", {}, one)),
    inputs.map((one) => one.element),
    problem,
    h("div", { class: "buttons" }, cancel, go),
  );
  const dialog = openDialog(title, form);
  cancel.addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const wrong = inputs.map((one) => one.problem()).find(Boolean);
    problem.textContent = wrong ?? "";
    if (wrong) return;
    const values = Object.fromEntries(
      inputs.map((one) => [one.name, one.value()]).filter(([, value]) => value !== undefined),
    );
    go.disabled = true;
    try {
      await send(values);
      dialog.close();
    } catch (error) {
      problem.textContent = error.message;
    } finally {
      go.disabled = false;
    }
  });
  (inputs[0]?.input ?? (hurts ? cancel : go)).focus();
}

function field({ name, label, type, value, min, max, hint }) {
  const id = `field-${name}`;
  if (type === "check") {
    const input = h("input", { type: "checkbox", id, checked: value });
    return {
      // What is not ticked is not said: the server's own way holds.
      name,
      input,
      value: () => input.checked || (value === undefined ? undefined : false),
      problem: () => null,
      element: h("label", { class: "check", for: id }, input, h("span", {}, label)),
    };
  }
  if (type === "text") {
    const input = h("input", { type: "text", id, autocomplete: "off", maxlength: 200 });
    return {
      name,
      input,
      value: () => input.value.trim() || undefined,
      problem: () => null,
      element: h("label", { class: "field", for: id }, h("span", {}, label), input),
    };
  }
  const input = h("input", { type: "number", id, value, min, max, step: 1, inputmode: "numeric" });
  const bounds =
    max === undefined ? `a whole number from ${min}` : `a whole number from ${min} to ${max}`;
  return {
    name,
    input,
    value: () => (input.value === "" ? undefined : Number(input.value)),
    problem: () => {
      const fits = input.value !== "" && input.checkValidity();
      return fits ? null : `${label}: expected ${bounds}`;
    },
    element: h(
      "label",
      { class: "field", for: id },
      h("span", {}, label),
      input,
      hint ? h("small", {}, hint) : null,
    ),
  };
}
