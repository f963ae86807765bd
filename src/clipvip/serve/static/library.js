// The library: what is in the index, its folders, index jobs as they run, and the files that could not be read.

import * as api from "./rest.js";
import { announce, button, byId, el } from "./dom.js";
import { bytes, count, counted, duration } from "./format.js";

const view = byId("library-view");
const MANY_FAILURES = 200;
let visit = new AbortController(); // ends when the view is left, or asks for everything anew
let tellGone = () => {};

/** given: tellGone(error, view, retry), words in place of the view. */
export function setUp(given) {
  ({ tellGone } = given);
}

export function hide() {
  visit.abort();
  visit = new AbortController();
}

/** Ask the server for everything and show it. */
export async function show() {
  hide();
  const { signal } = visit;
  view.setAttribute("aria-busy", "true");
  try {
    const [status, { libraries }, { jobs }] = await Promise.all([api.status(), api.libraries(), api.jobs()]);
    if (!signal.aborted) draw({ status, libraries, jobs });
  } catch (error) {
    if (!signal.aborted) tellGone(error, view, show);
  }
  if (!signal.aborted) view.removeAttribute("aria-busy");
}

function draw({ status, libraries, jobs }, told = el("div", { id: "jobs" })) {
  const heading = { id: "folders-title" };
  view.replaceChildren(
    el("h1", {}, "Library"),
    facts(status),
    told,
    el("section", { "aria-labelledby": heading.id }, el("h2", heading, "Folders"), folders(libraries), actions(status)),
    ...unreadable(status.failures.filter(({ indexed }) => !indexed)),
    ...damaged(status.failures.filter(({ indexed }) => indexed)),
  );
  const [latest] = jobs;
  if (latest?.state === "running") follow(latest);
  if (latest?.state === "interrupted") {
    const goOn = button("Go on", { on: { click: () => start(latest.dir ? { dir: latest.dir } : { prune: true }) } });
    told.append(el("div", { class: "job" }, el("p", {}, ...nameOf(latest), `: ${latest.message}`), goOn));
  }
}

function facts({ videos, segments, hours, bytes: size, model, fingerprint }) {
  const fact = (name, value, title) => el("div", {}, el("dt", {}, name), el("dd", { title }, value));
  const shortName = model.split(/[/\\]/).filter(Boolean).slice(-2).join("/");
  return el(
    "dl",
    { class: "facts" },
    fact("Videos", count(videos)),
    fact("Segments", count(segments)),
    fact("Length", duration(hours)),
    fact("Index size", bytes(size)),
    fact("Model", el("bdi", {}, shortName), `${model} (${fingerprint})`),
  );
}

function folders(roots) {
  if (!roots.length) return el("p", { class: "hint" }, "No folder has been indexed yet.");
  const row = ({ root, videos, segments, added }) => {
    const title = "Index what is new or changed in this folder";
    const click = () => start({ dir: root });
    const update = added ? button("Update", { title, "data-root": root, on: { click } }) : "single files";
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, el("bdi", {}, root)),
      el("td", {}, counted(videos, "video")),
      el("td", {}, counted(segments, "segment")),
      el("td", {}, update),
    );
  };
  return table("Indexed folders", roots.map(row));
}

const table = (caption, rows) => el("table", {}, el("caption", { class: "spoken" }, caption), el("tbody", {}, rows));

function actions({ allow_new_roots: mayAdd }) {
  const title = "Take files out of the index that are no longer on disk";
  const forget = button("Forget missing files", { title, on: { click: () => start({ prune: true }) } });
  if (!mayAdd) {
    const flag = el("code", {}, "--allow-new-roots");
    const how = ["To add a folder: ", el("code", {}, "clipvip index FOLDER"), ", or start the server with ", flag, "."];
    return el("div", {}, el("div", { class: "actions" }, forget), el("p", { class: "hint" }, how));
  }
  const dir = el("input", { name: "dir", required: true, spellcheck: "false", placeholder: "/home/me/Videos" });
  const label = el("label", {}, "Add a folder of the server ", dir);
  const form = el("form", { class: "actions", autocomplete: "off" }, label, el("button", {}, "Index"), forget);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start({ dir: dir.value.trim() });
  });
  return form;
}

function unreadable(list) {
  const title = counted(list.length, "file that could not be read", "files that could not be read");
  return failures(list, "failures-title", title, "They are tried again with every update.", "Unreadable files and why");
}

function damaged(list) {
  const title = counted(list.length, "damaged file", "damaged files");
  return failures(list, "damaged-title", title, "What can be read of them is indexed.", "Damaged files and why");
}

function failures(list, id, title, hint, caption) {
  if (!list.length) return [];
  const row = ({ path, reason }) =>
    el("tr", {}, el("th", { scope: "row" }, el("bdi", {}, path)), el("td", {}, reason));
  const left = list.length - MANY_FAILURES;
  const heading = { id };
  const section = el(
    "section",
    { "aria-labelledby": heading.id, class: "failures" },
    el("h2", heading, title),
    el("p", { class: "hint" }, hint),
    table(caption, list.slice(0, MANY_FAILURES).map(row)),
    left > 0 ? el("p", { class: "hint" }, `and ${count(left)} more`) : null,
  );
  return [section];
}

async function start(body) {
  const { signal } = visit;
  try {
    const job = await api.startJob(body);
    if (!signal.aborted) follow(job);
  } catch (error) {
    if (!signal.aborted) complain(error.message);
  }
}

function complain(text) {
  const dismiss = ({ currentTarget }) => currentTarget.parentElement.remove();
  const close = button("", { name: "close", title: "Dismiss", class: "quiet", on: { click: dismiss } });
  byId("jobs").prepend(el("div", { class: "job failed", role: "alert" }, el("p", {}, text), close));
}

const nameOf = ({ kind, dir }) =>
  kind === "prune" ? ["Looking for missing files"] : ["Indexing ", el("bdi", {}, dir)];

/** A job's progress, as the server tells it, until it ends. */
function follow(job) {
  const bar = el("progress", { "aria-label": "Progress" });
  const told = el("p", {});
  const note = el("p", { class: "hint now" });
  const cancel = button("Cancel", { class: "cancel" });
  cancel.addEventListener("click", async () => {
    cancel.disabled = true;
    await api.cancelJob(job.job_id).catch((error) => complain(error.message));
  });
  const box = el("div", { class: "job", "data-job": job.job_id }, told, bar, note, cancel);
  byId("jobs").prepend(box);
  announce(nameOf(job).map((part) => part.textContent ?? part).join(""));

  const update = ({ done, total, seconds }) => {
    if (total) Object.assign(bar, { max: total, value: done });
    told.replaceChildren(...nameOf(job), total ? ` · ${count(done)} of ${counted(total, "file")}` : "");
    const left = done > 0 ? (seconds / done) * (total - done) : 0;
    note.textContent = left > 60 ? `about ${duration(left / 3600)} left` : total && done === total ? "finishing" : "";
  };
  const end = (last) => {
    stream.close();
    bar.remove();
    note.remove();
    cancel.remove();
    box.classList.add(last.state);
    told.textContent = resultOf(last);
    announce(told.textContent);
    refresh();
  };
  update(job);
  const stream = api.jobEvents(job.job_id);
  visit.signal.addEventListener("abort", () => stream.close());
  stream.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    if (event.state === "running") update(event);
    else end(event);
  };
  stream.onerror = () => {
    note.textContent = "Waiting for the server …"; // the browser connects again by itself, unless it was refused
    if (stream.readyState !== EventSource.CLOSED) return;
    api.job(job.job_id).then(end, (error) => end({ state: "failed", message: error.message }));
  };
}

function resultOf({ state, message, summary }) {
  if (state !== "done") return message;
  const { videos = 0, unchanged = 0, moved = 0, copied = 0, removed = 0, missing = 0 } = summary ?? {};
  const { skipped = 0, damaged = 0, excluded = 0 } = summary ?? {};
  const parts = [
    videos && `${counted(videos, "video")} indexed`,
    unchanged && `${count(unchanged)} unchanged`,
    moved && `${count(moved)} moved`,
    copied && counted(copied, "copy of a known file", "copies of known files"),
    removed && `${counted(removed, "missing file")} forgotten`,
    missing && `${counted(missing, "file")} missing`,
    skipped && `${count(skipped)} could not be read`,
    damaged && `${count(damaged)} damaged`,
    excluded && `${count(excluded)} excluded`,
  ].filter(Boolean);
  return `Done: ${parts.join(", ") || "nothing to do"}`;
}

/** The figures after a job; what the jobs told stays. */
async function refresh() {
  try {
    const [status, { libraries }] = await Promise.all([api.status(), api.libraries()]);
    draw({ status, libraries, jobs: [] }, byId("jobs"));
  } catch {
    // the job's own line stands; the next visit asks again
  }
}
