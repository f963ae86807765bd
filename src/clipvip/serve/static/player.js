// The dialog in which a hit plays: from its first second, in a loop; the whole video's answers lie below as a timeline.

import { hitsWithin, streamUrl, video as videoOf, whyNoStream } from "./rest.js";
import { announce, button, byId, el } from "./dom.js";
import { bytes, range, score, splitPath, time } from "./format.js";
import { curve, peaksOf } from "./timeline.js";

const dialog = byId("player");
const PATIENCE_MS = 700;
let handlers = {};
let playing = null; // {hit, result: the id of the hit that was opened, video, loop, note, abort}

/**
 * handlers: closed(id) and step(by, id) of the result that was opened; moved(id) to another moment of its video;
 * similar(hit); terms() of the search that led here, as the API takes them.
 */
export function setUp(given) {
  handlers = given;
  dialog.addEventListener("close", () => {
    const result = playing?.result;
    stop();
    handlers.closed(result);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
  dialog.addEventListener("keydown", keys);
}

export const shows = (segmentId) => playing?.hit.segment_id === segmentId;

export function close() {
  if (dialog.open) dialog.close();
}

function stop() {
  if (!playing) return;
  playing.abort.abort();
  playing.video.pause();
  playing.video.removeAttribute("src");
  playing.video.load(); // lets go of the connection
  playing = null;
  dialog.replaceChildren();
}

/** Play this hit, {video_id, segment_id, path, start_s, end_s, ...}. */
export function open(hit) {
  stop();
  const [folder, name] = splitPath(hit.path);
  const video = el("video", { controls: true, playsinline: true, preload: "auto", "aria-label": name });
  const note = el("p", { class: "note", role: "status" });
  const looping = { class: "quiet loop", title: "Repeat this moment (l)", "aria-pressed": "true" };
  const loop = button("Loop", { name: "loop", ...looping });
  const abort = new AbortController();
  playing = { hit, result: hit.segment_id, video, loop, note, abort };
  loop.addEventListener("click", () => setLoop(!isLooping()));
  const timeline = el("div", { class: "timeline", hidden: true });
  dialog.replaceChildren(
    el(
      "header",
      {},
      el("h2", { id: "player-name" }, el("bdi", {}, name)),
      el("span", { class: "place" }, placeOf(hit)),
      quiet("", { name: "close", title: "Close (Esc)" }, () => dialog.close()),
    ),
    el("div", { class: "screen" }, video, note),
    timeline,
    el(
      "footer",
      {},
      quiet("", { name: "previous", title: "Previous result (p)" }, () => handlers.step(-1, hit.segment_id)),
      quiet("", { name: "next", title: "Next result (n)" }, () => handlers.step(1, hit.segment_id)),
      loop,
      quiet("More like this", { name: "similar" }, () => handlers.similar(playing.hit)),
      quiet("Copy link", { name: "link" }, copyLink),
      el("span", { class: "about" }, el("bdi", {}, folder)),
    ),
  );
  if (!dialog.open) dialog.showModal();
  video.focus();
  play();
  fillIn(timeline);
}

const quiet = (label, attributes, click) => button(label, { class: "quiet", on: { click }, ...attributes });

const placeOf = (hit) =>
  [range(hit.start_s, hit.end_s), hit.score === undefined ? null : score(hit.score)].filter(Boolean).join(" · ");

function play() {
  const { video, hit, note, abort } = playing;
  const { signal } = abort;
  const tell = (...children) => note.replaceChildren(...children);
  const waiting = setTimeout(() => tell("Getting the video ready …"), PATIENCE_MS);
  signal.addEventListener("abort", () => clearTimeout(waiting));
  video.addEventListener(
    "loadedmetadata",
    () => {
      clearTimeout(waiting);
      tell();
      video.currentTime = playing.hit.start_s;
      video.play().catch(() => {}); // a page that nobody touched yet may not play; it then waits on the right picture
    },
    { signal },
  );
  video.addEventListener(
    "error",
    async () => {
      clearTimeout(waiting);
      const why = await whyNoStream(hit.video_id);
      if (!signal.aborted) tell(el("span", {}, why), button("Try again", { on: { click: () => open(hit) } }));
    },
    { signal },
  );
  video.addEventListener("ended", () => isLooping() && restart(), { signal });
  video.addEventListener("seeking", leaveLoop, { signal });
  video.src = `${streamUrl(hit.video_id)}#t=${hit.start_s}`; // or the first picture of the file would flash up
  const watch = () => {
    if (signal.aborted) return;
    if (isLooping() && !video.paused && !video.seeking && video.currentTime >= playing.hit.end_s - 0.02) restart();
    requestAnimationFrame(watch);
  };
  requestAnimationFrame(watch);
}

const isLooping = () => playing?.loop.getAttribute("aria-pressed") === "true";

function setLoop(on) {
  playing.loop.setAttribute("aria-pressed", String(on));
  const { video, hit } = playing;
  if (on && (video.currentTime < hit.start_s || video.currentTime >= hit.end_s)) restart();
  announce(on ? "Loop on" : "Loop off");
}

function restart() {
  playing.video.currentTime = playing.hit.start_s;
  playing.video.play().catch(() => {});
}

/** Whoever looks elsewhere in the video does not want to be carried back. */
function leaveLoop() {
  const { video, hit } = playing;
  const isOutside = video.currentTime < hit.start_s - 0.3 || video.currentTime > hit.end_s + 0.3;
  if (isLooping() && isOutside) setLoop(false);
}

/** Another moment of the video that is open. */
function jump(hit) {
  playing.hit = { ...playing.hit, ...hit };
  dialog.querySelector(".place").textContent = placeOf(hit);
  setLoop(true);
  restart();
  markWindow();
  handlers.moved(hit.segment_id);
}

async function fillIn(timeline) {
  const { hit, video, abort } = playing;
  const about = dialog.querySelector(".about");
  try {
    const terms = handlers.terms();
    const [facts, within] = await Promise.all([
      videoOf(hit.video_id, abort.signal),
      terms.length ? hitsWithin(hit.video_id, terms, abort.signal) : null,
    ]);
    const told = [`${facts.width}×${facts.height}`, time(facts.duration_s), bytes(facts.size_bytes)];
    about.append(about.textContent ? " · " : "", told.join(" · "));
    if (within && within.segments.length > 1) drawTimeline(timeline, within.segments, facts.duration_s, video);
  } catch (error) {
    if (error.name !== "AbortError") about.append(` ${error.message}`);
  }
}

function drawTimeline(timeline, hits, duration, video) {
  const window_ = el("span", { class: "window" });
  const head = el("span", { class: "head" });
  const title = "How well each part of the video fits";
  const track = el("div", { class: "track", title }, curve(hits, duration), window_, head);
  track.addEventListener("click", (event) => {
    const at = (event.offsetX / track.clientWidth) * duration;
    const here = hits.filter(({ start_s, end_s }) => start_s <= at && at <= end_s);
    if (here.length) jump(here.reduce((a, b) => (b.score > a.score ? b : a)));
  });
  const moments = peaksOf(hits).map((peak) =>
    el(
      "li",
      {},
      button(range(peak.start_s, peak.end_s), {
        "aria-label": `Play ${range(peak.start_s, peak.end_s)}, score ${score(peak.score)}`,
        title: `Score ${score(peak.score)}`,
        "data-start": peak.start_s,
        on: { click: () => jump(peak) },
      }),
    ),
  );
  const list = el("ol", { role: "list", "aria-label": "Best moments of this video" }, moments);
  timeline.append(track, el("div", { class: "moments" }, el("span", { "aria-hidden": "true" }, "Best moments"), list));
  timeline.dataset.duration = duration;
  timeline.hidden = false;
  markWindow();
  const follow = () => {
    if (!timeline.isConnected) return;
    head.style.left = `${Math.min(video.currentTime / duration, 1) * 100}%`;
    requestAnimationFrame(follow);
  };
  follow();
}

function markWindow() {
  const { start_s, end_s } = playing.hit;
  const duration = Number(dialog.querySelector(".timeline").dataset.duration);
  const mark = dialog.querySelector(".window");
  if (!mark || !duration) return;
  mark.style.left = `${(start_s / duration) * 100}%`;
  mark.style.width = `${((end_s - start_s) / duration) * 100}%`;
  for (const moment of dialog.querySelectorAll(".moments button")) {
    moment.setAttribute("aria-current", String(Number(moment.dataset.start) === start_s));
  }
}

async function copyLink({ currentTarget }) {
  const words = currentTarget.lastChild;
  try {
    await navigator.clipboard.writeText(location.href);
    words.textContent = "Copied";
  } catch {
    words.textContent = "Copy the address bar"; // only secure pages may write to the clipboard
  }
  announce(words.textContent);
}

function keys(event) {
  if (!playing || event.ctrlKey || event.metaKey || event.altKey) return;
  const onButton = event.target.closest("button");
  const does = {
    l: () => setLoop(!isLooping()),
    n: () => handlers.step(1, playing.result),
    p: () => handlers.step(-1, playing.result),
    m: () => handlers.similar(playing.hit),
  };
  if (event.key === " " && !onButton && event.target !== playing.video) {
    does[" "] = () => (playing.video.paused ? playing.video.play() : playing.video.pause());
  }
  if (!does[event.key]) return;
  event.preventDefault();
  event.stopPropagation();
  does[event.key]();
}

