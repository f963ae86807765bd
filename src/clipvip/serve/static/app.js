// Where everything meets: the address decides what is shown; every change of the question is a new address.

import * as api from "./rest.js";
import { announce, button, byId, el } from "./dom.js";
import { count, counted } from "./format.js";
import * as library from "./library.js";
import * as player from "./player.js";
import * as query from "./query.js";
import * as results from "./results.js";
import {
  EMPTY,
  FALSE_ALARM,
  asksInWords,
  fromAddress,
  isAsking,
  isSure,
  numFilters,
  questionOf,
  toAddress,
  toQuestion,
} from "./state.js";

const PAGE_SIZE = 24;
const EXAMPLES = ["a dog catches a frisbee", "waves on a beach at sunset", "somebody cuts vegetables"];

let state = EMPTY;
let answered = null; // the question whose answer is on the page
let nextOffset = null;
let search = new AbortController();

/** Go to a changed state, as a new entry of the browser's history. */
function go(change, { replace = false } = {}) {
  const next = { ...state, view: "search", ...change };
  const isSame = toAddress(next) === toAddress(state);
  history[replace || isSame ? "replaceState" : "pushState"](null, "", toAddress(next));
  render(next, !("text" in change));
}

/** Show a state: what differs from the one before. */
function render(next, keepTyped = false) {
  state = next;
  const isLibrary = state.view === "library";
  byId("search-view").hidden = isLibrary;
  byId("library-view").hidden = !isLibrary;
  byId("library-link").setAttribute("aria-current", isLibrary ? "page" : "false");
  query.show(state, keepTyped);
  byId("per-video").checked = state.perVideo;
  byId("sure").checked = state.sure;
  byId("sure").disabled = !asksInWords(state);
  document.title = [isLibrary ? "Library" : state.text, "clipvip"].filter(Boolean).join(" · ");
  if (isLibrary) {
    player.close();
    return library.show();
  }
  library.hide();
  if (!state.open) player.close();
  if (!isAsking(state)) welcome();
  else if (questionOf(state) !== answered) return ask();
  return openMoment();
}

async function openMoment() {
  const wanted = state.open;
  if (!wanted || player.shows(wanted)) return;
  const known = results.shown().find(({ segment_id }) => segment_id === wanted);
  if (known) return player.open(known);
  let why = "That moment is no longer in the index.";
  try {
    const video = await api.video(wanted.split("-")[0]); // not among the results on the page: a shared link, say
    if (state.open !== wanted) return;
    const segment = video.segments.find(({ segment_id }) => segment_id === wanted);
    if (segment) return player.open({ ...video, ...segment });
  } catch (error) {
    if (state.open !== wanted) return;
    if (error.isGone) return tellError(error, openMoment);
    why = error.message;
  }
  complain(why);
  go({ open: "" }, { replace: true });
}

// --- asking ---

async function ask() {
  search.abort();
  search = new AbortController();
  const { signal } = search;
  const question = questionOf(state);
  answered = nextOffset = null; // what still stands on the page is of another question, and so is more of it
  byId("more").hidden = true;
  results.wait(PAGE_SIZE / 2);
  try {
    const answer = await api.search(body(0), signal);
    results.clear();
    answered = question;
    nextOffset = answer.next_offset ?? null;
    showAnswer(answer);
    await openMoment();
  } catch (error) {
    if (error.name !== "AbortError") tellError(error, ask);
  }
}

function body(offset) {
  return {
    ...toQuestion(state),
    k: PAGE_SIZE,
    offset,
    per_video: state.perVideo,
    false_alarm: isSure(state) ? FALSE_ALARM : null,
  };
}

function showAnswer(answer) {
  byId("summary").hidden = false;
  if (!answer.found) return nothing();
  const hits = answer.results;
  results.add(hits);
  byId("more").hidden = nextOffset === null;
  const thing = state.perVideo ? "video" : "moment";
  const told = nextOffset === null ? counted(hits.length, thing) : `The best ${counted(hits.length, thing)}`;
  byId("told").textContent = `${told} · ${count(Math.round(answer.took_ms))} ms`;
  announce(`${counted(hits.length, "result")}. Arrow down goes to them.`);
}

async function more() {
  const from = results.shown().length;
  byId("more").disabled = true;
  try {
    const answer = await api.search(body(nextOffset), search.signal);
    nextOffset = answer.next_offset ?? null;
    results.add(answer.results);
    byId("more").hidden = nextOffset === null;
    byId("told").textContent = counted(results.shown().length, state.perVideo ? "video" : "moment");
    announce(`${counted(answer.results.length, "more result")}`);
    results.focus(results.shown()[from]?.segment_id);
  } catch (error) {
    if (error.name !== "AbortError") tellError(error, ask);
  }
  byId("more").disabled = false;
}

const similarTo = (hit) =>
  go({
    text: "",
    terms: [{ kind: "segment", value: hit.segment_id, weight: 1, label: hit.path.split("/").at(-1) }],
    open: "",
  });

/** The result before or after this one. */
function step(by, segmentId) {
  const ids = results.shown().map(({ segment_id }) => segment_id);
  const to = ids[ids.indexOf(segmentId) + by];
  if (to) go({ open: to }, { replace: true });
  else announce(by > 0 ? "That was the last result" : "That was the first result");
}

// --- words in place of results ---

async function welcome() {
  search.abort();
  answered = questionOf(state);
  byId("summary").hidden = true;
  byId("more").hidden = true;
  const examples = el("ul", { role: "list", class: "examples" });
  const showExamples = (texts) =>
    examples.replaceChildren(
      ...texts.map((text) => el("li", {}, el("a", { href: toAddress({ ...EMPTY, text }) }, text))),
    );
  const facts = el("p", { class: "facts-line" }, " ");
  results.tell(
    "empty",
    "Find a moment in your videos",
    "Say what happens in it, or drop a picture or a clip that looks like it.",
    facts,
    examples,
  );
  try {
    const status = await api.status();
    if (!facts.isConnected) return;
    if (!status.videos) return emptyLibrary();
    showExamples(status.examples ?? EXAMPLES);
    facts.textContent = `${counted(status.videos, "video")}, ${counted(status.segments, "moment")}`;
  } catch (error) {
    if (facts.isConnected) tellError(error, () => render(state));
  }
}

function emptyLibrary() {
  const link = el("a", { href: "?view=library", class: "button" }, "Go to the library");
  const text = "Index a folder of videos first; then describe what you look for.";
  results.tell("empty", "Nothing is indexed yet", text, link);
}

function nothing() {
  byId("more").hidden = true;
  byId("told").textContent = "Nothing found";
  announce("Nothing found");
  const isUnsure = isSure(state);
  const loosen = [
    numFilters(state) > 0 && button("Clear the filters", { on: { click: () => go({ filters: EMPTY.filters }) } }),
    isUnsure && button("Show the nearest all the same", { on: { click: () => go({ sure: false }) } }),
  ].filter(Boolean);
  if (isUnsure) {
    const why = "What comes nearest is no closer than for questions that have no answer here.";
    results.tell("nothing", "Nothing here looks like that", why, ...loosen);
  } else if (numFilters(state)) {
    results.tell("nothing", "Nothing passes the filters", "Other moments of the library may fit.", ...loosen);
  } else {
    results.tell("nothing", "Nothing found", "The index has no moment to show.");
  }
}

/** retry: what to do again; without it, or beside the library, the page stays as it is. */
function tellError(error, retry) {
  if (retry === undefined || state.view === "library") return complain(error.message);
  answered = null;
  byId("more").hidden = true;
  byId("summary").hidden = true;
  showProblem(error, retry, (...told) => results.tell("error", ...told));
}

/** The server's own sentence, or what may be wrong if it has none. */
function showProblem(error, retry, tell) {
  const again = button("Try again", { on: { click: retry } });
  const uploads = state.terms.some(({ kind }) => kind === "upload");
  const without = () => go({ terms: state.terms.filter(({ kind }) => kind !== "upload") });
  const drop = button("Search without it", { on: { click: without } });
  if (error.isGone) {
    tell("The server does not answer", "Is it still running? Nothing is lost: try again when it is back.", again);
  } else if (error.status === 401) {
    tell("This server asks for its token", "Open the address that it printed at its start: the token is in it.", again);
  } else if (error.status === 404 && uploads) {
    tell("Your file is no longer on the server", "Files to search by are kept for a while only: drop it again.", drop);
  } else {
    tell("That did not work", error.message, again);
  }
  announce(error.message);
}

/** A mistake that leaves the page as it is. */
function complain(text) {
  document.querySelector(".toast")?.remove();
  const close = button("", { name: "close", title: "Dismiss", on: { click: () => told.remove() } });
  const told = el("p", { class: "toast", role: "alert" }, text, close);
  document.body.append(told);
}

// --- keys and wiring ---

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const isTyping = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "ArrowDown" && event.target === byId("text")) {
    event.preventDefault();
    return results.focus();
  }
  if (isTyping || document.querySelector("dialog[open]")) return;
  const does = {
    "/": () => byId("text").select(),
    "?": () => byId("help").showModal(),
    f: () => query.showFilters(byId("filters").hidden),
    g: () => isAsking(state) && query.ask({ perVideo: !state.perVideo }),
  }[event.key];
  if (!does) return;
  event.preventDefault();
  does();
}

/** Links within the page need no new load. */
function follow(event) {
  const link = event.target.closest("a[href]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || link.hash) return;
  const to = new URL(link.href);
  if (to.origin !== location.origin || to.pathname !== new URL(".", document.baseURI).pathname) return;
  event.preventDefault();
  go(fromAddress(to.search));
  byId(state.view === "library" ? "library-view" : "text").focus();
}

query.setUp({ go, tellError });
results.setUp({ open: (hit) => go({ open: hit.segment_id }), similar: similarTo });
player.setUp({
  closed: (segmentId) => {
    if (!state.open) return;
    go({ open: "" });
    results.focus(segmentId);
  },
  moved: (segmentId) => go({ open: segmentId }, { replace: true }),
  similar: similarTo,
  step,
  terms: () => toQuestion(state).terms,
});
library.setUp({
  tellGone: (error, view, retry) =>
    showProblem(error, retry, (title, text, ...actions) =>
      view.replaceChildren(
        el("h1", {}, title),
        el("p", {}, text),
        el("div", { class: "actions" }, actions),
      ),
    ),
});
byId("per-video").addEventListener("change", ({ target }) => query.ask({ perVideo: target.checked }));
byId("sure").addEventListener("change", ({ target }) => query.ask({ sure: target.checked }));
byId("more").addEventListener("click", more);
byId("keys").addEventListener("click", () => byId("help").showModal());
addEventListener("keydown", keys);
addEventListener("click", follow);
addEventListener("popstate", () => render(fromAddress(location.search)));

render(fromAddress(location.search));
if (!isAsking(state) && state.view === "search") byId("text").focus();
if (numFilters(state)) query.showFilters(true, false);
