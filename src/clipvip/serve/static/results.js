// The answers: a grid of cards, walked through with the arrow keys, and what stands there when there are none.

import { stripUrl, thumbnailUrl } from "./rest.js";
import { button, byId, el } from "./dom.js";
import { range, score, spokenTime, splitPath } from "./format.js";
import { filmStrip } from "./strip.js";

const grid = byId("grid");
const message = byId("message");
const cards = new Map(); // segment_id -> {hit, main}
const FRAME = { least: 3 / 4, most: 16 / 9 };

let handlers = {};

/** handlers: {open(hit), similar(hit)}. */
export function setUp(given) {
  handlers = given;
  grid.addEventListener("keydown", walk);
}

/** The hits on the page, in order. */
export const shown = () => [...cards.values()].map(({ hit }) => hit);

export function clear() {
  cards.clear();
  grid.replaceChildren();
  grid.removeAttribute("aria-busy");
  message.replaceChildren();
  message.className = "";
}

/** Put these hits below those that are there already. */
export function add(hits) {
  if (cards.size === 0) grid.style.setProperty("--aspect", String(commonAspect(hits)));
  for (const hit of hits) {
    if (cards.has(hit.segment_id)) continue;
    const main = mainButton(hit);
    const similar = button("", { name: "similar", title: "More like this (m)", class: "similar", tabindex: "-1" });
    similar.addEventListener("click", () => handlers.similar(hit));
    main.tabIndex = cards.size === 0 ? 0 : -1;
    cards.set(hit.segment_id, { hit, main, similar });
    grid.append(el("li", { class: "card", "data-segment": hit.segment_id }, main, similar));
  }
}

/** Most of the results' own shape, so that a library of one kind of video has no bars around its pictures. */
function commonAspect(hits) {
  const aspects = hits.map(aspectOf).sort((a, b) => a - b);
  const median = aspects[Math.floor(aspects.length / 2)] ?? FRAME.most;
  return Math.min(Math.max(median, FRAME.least), FRAME.most);
}

const aspectOf = ({ width, height }) => (width > 0 && height > 0 ? width / height : FRAME.most);

function mainButton(hit) {
  const [folder, name] = splitPath(hit.path);
  const when = `${spokenTime(hit.start_s)} to ${spokenTime(hit.end_s)}`;
  const spoken = `${hit.rank}. ${name}, ${when}, score ${score(hit.score)}`;
  const frame = el("span", { class: "frame" });
  const image = el("img", { src: thumbnailUrl(hit.segment_id), alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => frame.classList.add("blank"));
  const { strip, play, stop } = filmStrip(stripUrl(hit.segment_id), aspectOf(hit), frame);
  strip.style.setProperty("--own", String(aspectOf(hit)));
  frame.append(image, strip, el("span", { class: "when" }, range(hit.start_s, hit.end_s)));
  const main = el(
    "button",
    { type: "button", class: "main", "aria-label": spoken, on: { click: () => handlers.open(hit) } },
    frame,
    el(
      "span",
      { class: "caption" },
      el("bdi", { class: "name", title: hit.path }, name),
      el("span", { class: "score", title: "Similarity to the query (cosine)" }, score(hit.score)),
      el("bdi", { class: "folder" }, folder),
    ),
  );
  main.addEventListener("focus", () => {
    current(hit.segment_id);
    if (main.matches(":focus-visible")) play();
  });
  main.addEventListener("blur", stop);
  return main;
}

/** One card can be reached with Tab, the others from there: tab stops stay few however many results there are. */
function current(segmentId) {
  for (const [id, { main, similar }] of cards) {
    main.tabIndex = id === segmentId ? 0 : -1;
    similar.tabIndex = id === segmentId ? 0 : -1;
  }
}

function walk(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const id = event.target.closest(".card")?.dataset.segment;
  if (!id) return;
  if (event.key === "m") return handlers.similar(cards.get(id).hit);
  const all = [...cards.values()].map(({ main }) => main);
  const at = all.indexOf(cards.get(id).main);
  const topOf = (main) => main.parentElement.offsetTop;
  const columns = all.findIndex((main) => topOf(main) > topOf(all[0]));
  const row = columns === -1 ? all.length : columns;
  const to = {
    ArrowRight: at + 1,
    ArrowLeft: at - 1,
    ArrowDown: at + row < all.length ? at + row : lastOfNextRow(at, row, all.length),
    ArrowUp: at - row,
    Home: 0,
    End: all.length - 1,
  }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  if (to < 0 && event.key === "ArrowUp") byId("text").focus();
  else if (to >= all.length && event.key !== "ArrowLeft" && !byId("more").hidden) byId("more").focus();
  else all[Math.min(Math.max(to, 0), all.length - 1)].focus();
}

/** Below the last full row there may be a shorter one. */
function lastOfNextRow(at, row, total) {
  const rowOf = (i) => Math.floor(i / row);
  return rowOf(at) < rowOf(total - 1) ? total - 1 : total;
}

/** Give the keyboard to a result: this one if it is there, else the first. */
export function focus(segmentId = "") {
  const [first] = cards.values();
  (cards.get(segmentId) ?? first)?.main.focus();
}

/** While the server thinks: the last answer, faded, or empty cards if there is none. Both only show after a moment. */
export function wait(numCards) {
  if (!cards.size) clear();
  grid.setAttribute("aria-busy", "true");
  if (cards.size) return;
  const parts = () => [el("span", { class: "frame" }), el("span", { class: "line" })];
  const blank = () => el("li", { class: "card waiting", "aria-hidden": "true" }, parts());
  grid.append(...Array.from({ length: numCards }, blank));
}

/** Words in place of results. kind: "empty" | "nothing" | "error". */
export function tell(kind, title, text, ...actions) {
  clear();
  message.className = kind;
  message.append(
    ...(kind === "error" ? [el("span", { class: "sign", "aria-hidden": "true" }, "!")] : []),
    el("h2", {}, title),
    ...(text ? [el("p", {}, text)] : []),
    ...(actions.length ? [el("div", { class: "actions" }, ...actions)] : []),
  );
}
