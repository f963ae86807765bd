// The box at the top: words, terms beside them (with weights), images and videos given to search by, filters.

import { libraries, thumbnailUrl, upload } from "./rest.js";
import { announce, button, byId, el, icon } from "./dom.js";
import { EMPTY, numFilters } from "./state.js";

const WEIGHTS = [
  [2, "twice"],
  [1, "with"],
  [0.5, "a bit of"],
  [-0.5, "less"],
  [-1, "without"],
];
const text = byId("text");
const filters = byId("filters");
const pictures = new Map(); // upload id -> address of what was uploaded, as long as this page lives
let state = EMPTY;
let go = () => {};
let tellError = () => {};

/** given: go(change) to another question, tellError(error, retry or nothing). */
export function setUp(given) {
  ({ go, tellError } = given);
  byId("query").addEventListener("submit", (event) => {
    event.preventDefault();
    ask({});
  });
  text.addEventListener("input", () => (byId("add").hidden = text.value.trim() === ""));
  text.addEventListener("keydown", (event) => {
    if (event.key === "Backspace" && text.value === "" && state.terms.length) removeTerm(state.terms.length - 1);
  });
  byId("add").addEventListener("click", () => {
    const term = { kind: "text", value: text.value.trim(), weight: 1, label: "" };
    ask({ text: "", terms: [...state.terms, term] });
    text.focus();
  });
  setUpFilters();
  setUpFiles();
}

/** A change of the question; words that were typed and not yet sent belong to it. */
export const ask = (change) => go({ text: text.value, open: "", ...change });

/** Show what is asked. keepTyped: the words in the box, asked already or not yet, stay. */
export function show(next, keepTyped) {
  state = next;
  if (!keepTyped) text.value = state.text;
  byId("add").hidden = text.value.trim() === "";
  text.placeholder = state.terms.length ? "and …" : "Describe a moment";
  byId("terms").replaceChildren(...state.terms.map(chip));
  for (const [name, value] of Object.entries(state.filters)) {
    const field = filters.elements[name];
    if (name === "root" && value && ![...field.options].some((option) => option.value === value)) {
      field.append(el("option", { value }, value));
    }
    field.value = value;
  }
  const active = numFilters(state);
  const toggle = byId("filters-toggle");
  toggle.classList.toggle("active", active > 0);
  toggle.lastElementChild.textContent = active ? `Filters: ${active}` : "Filters";
}

function chip(term, i) {
  const name = term.label || { text: term.value, segment: "this moment", upload: "your file" }[term.kind];
  const picture = term.kind === "segment" ? thumbnailUrl(term.value) : pictures.get(term.value);
  const weights = WEIGHTS.some(([weight]) => weight === term.weight)
    ? WEIGHTS
    : [...WEIGHTS, [term.weight, `× ${term.weight}`]];
  const weight = el(
    "select",
    { "aria-label": `Weight of ${name}` },
    weights.map(([value, word]) => el("option", { value, selected: value === term.weight }, word)),
  );
  weight.addEventListener("change", () => {
    ask({ terms: state.terms.with(i, { ...term, weight: Number(weight.value) }) });
    byId("terms").querySelectorAll("select")[i]?.focus();
  });
  return el(
    "li",
    { class: term.weight < 0 ? "chip minus" : "chip" },
    picture ? thumbnail(picture) : term.kind === "text" ? null : icon("image"),
    weight,
    el("bdi", { title: name }, name),
    button("", { name: "close", title: `Remove ${name}`, on: { click: () => removeTerm(i) } }),
  );
}

function thumbnail(source) {
  const image = el("img", { src: source, alt: "" });
  image.addEventListener("error", () => image.replaceWith(icon("image"))); // a video, say
  return image;
}

function removeTerm(i) {
  ask({ terms: state.terms.toSpliced(i, 1) });
  text.focus();
}

// --- filters ---

function setUpFilters() {
  const toggle = byId("filters-toggle");
  toggle.addEventListener("click", () => showFilters(filters.hidden));
  filters.addEventListener("change", () => {
    if (!filters.reportValidity()) return;
    const given = new FormData(filters);
    ask({ filters: Object.fromEntries([...given].map(([name, value]) => [name, value.trim()])) });
  });
  filters.addEventListener("submit", (event) => event.preventDefault());
  byId("filters-clear").addEventListener("click", () => ask({ filters: EMPTY.filters }));
  filters.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    showFilters(false);
    toggle.focus();
  });
}

/** Unfold the filters (and go there), or fold them. */
export function showFilters(shown, andFocus = shown) {
  if (shown) listFolders();
  filters.hidden = !shown;
  byId("filters-toggle").setAttribute("aria-expanded", String(shown));
  if (andFocus) filters.elements.root.focus();
}

/** Offer the folders there are. */
async function listFolders() {
  const field = filters.elements.root;
  const found = await libraries().catch(() => ({ libraries: [] })); // the search itself will tell if the server is gone
  const known = new Set([...field.options].map(({ value }) => value));
  const missing = found.libraries.map(({ root }) => root).filter((root) => !known.has(root));
  field.append(...missing.map((root) => el("option", { value: root }, root)));
}

// --- images and videos ---

function setUpFiles() {
  const chooser = byId("file");
  byId("choose").addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", () => {
    askWith(chooser.files);
    chooser.value = "";
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) {
      event.preventDefault();
      askWith(event.clipboardData.files);
    }
  });
  const veil = byId("drop");
  let depth = 0; // dragenter and dragleave come for every element on the way
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  const veilOff = () => {
    depth = 0;
    veil.hidden = true;
  };
  addEventListener("dragenter", (event) => {
    if (!carriesFiles(event)) return;
    depth += 1;
    veil.hidden = false;
  });
  addEventListener("dragleave", () => {
    depth -= 1;
    if (depth <= 0) veilOff();
  });
  addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    veilOff();
    if (!carriesFiles(event)) return;
    event.preventDefault();
    askWith(event.dataTransfer.files);
  });
}

/** Upload the first file and search by it, together with the words that stand in the box. */
async function askWith([file]) {
  if (!file) return;
  if (!/^(image|video)\//.test(file.type)) {
    tellError(new Error(`${file.name}: neither an image nor a video.`));
    return;
  }
  const waiting = el("li", { class: "chip waiting" }, icon("image"), el("bdi", {}, file.name || "pasted image"));
  byId("terms").append(waiting);
  announce(`Sending ${file.name}`);
  try {
    const { upload_id: value } = await upload(file);
    if (file.type.startsWith("image/")) pictures.set(value, URL.createObjectURL(file));
    ask({ terms: [...state.terms, { kind: "upload", value, weight: 1, label: file.name }] });
  } catch (error) {
    waiting.remove();
    tellError(error, error.isGone ? () => askWith([file]) : undefined);
  }
}
