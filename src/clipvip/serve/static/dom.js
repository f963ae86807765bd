// Elements made by hand. Text only ever becomes text: nothing here, or on the page, parses a string as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** A new element. `on` holds listeners; false, null and undefined attributes are left out, true ones are empty. */
export function el(tag, { on = {}, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** One of the symbols of index.html; decoration, the words stand beside it or in its button's label. */
export function icon(name) {
  const use = svg("use", { href: `#i-${name}` });
  return svg("svg", { class: "icon", "aria-hidden": "true" }, use);
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A button with an icon, a label, or both; without a visible label `title` is its name. */
export function button(label, { name, title, on, ...attributes } = {}) {
  const tooltip = title ? { title, "aria-label": label ? undefined : title } : {};
  return el("button", { type: "button", on, ...tooltip, ...attributes }, name ? icon(name) : null, label || null);
}

export const byId = (id) => document.getElementById(id);

/** Told to screen readers, and to nobody else. */
export function announce(text) {
  byId("status").textContent = text;
}
