// Elements made and changed without ever reading text as HTML, and without touching what is right.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((one) => one !== null && one !== undefined));
  return element;
}

export const h = (tag, properties, ...children) =>
  fill(document.createElement(tag), properties, children);

export const svg = (tag, properties, ...children) =>
  fill(document.createElementNS(SVG, tag), properties, children);

export const byId = (id) => document.getElementById(id);

/** Nothing is written where nothing has changed: no selection is lost, nothing is laid out anew. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

export function setClass(element, name) {
  if (element.getAttribute("class") !== name) element.setAttribute("class", name);
}

/**
 * Children of `parent` made one for each item, found again by key, in the items' order. Only what is
 * out of place is moved, so that the focus stays where it is.
 */
export class KeyedList {
  constructor(parent, key, create, update, forget = () => {}) {
    this.parent = parent;
    this.key = key;
    this.create = create;
    this.update = update;
    this.forget = forget;
    this.nodes = new Map();
  }

  show(items) {
    const gone = new Set(this.nodes.keys());
    let at = this.parent.firstElementChild;
    for (const item of items) {
      const key = this.key(item);
      let node = this.nodes.get(key);
      if (!node) {
        node = this.create(item);
        this.nodes.set(key, node);
      }
      gone.delete(key);
      if (node === at) at = at.nextElementSibling;
      else this.parent.insertBefore(node, at);
      this.update(node, item);
    }
    for (const key of gone) {
      this.nodes.get(key).remove();
      this.forget(this.nodes.get(key));
      this.nodes.delete(key);
    }
  }
}
