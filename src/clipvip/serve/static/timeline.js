// Where in a video the query is answered best: one step of a curve for every segment, and its peaks in words.

import { svg } from "./dom.js";

const WIDTH = 1000;
const HEIGHT = 100;
const NUM_COLUMNS = 500;

/** Score of each column: the mean of the segments it lies in, which tells more finely than each; null if in none. */
function columnsOf(hits, duration) {
  const sums = new Array(NUM_COLUMNS).fill(0);
  const counts = new Array(NUM_COLUMNS).fill(0);
  for (const { start_s, end_s, score } of hits) {
    const first = Math.max(0, Math.round((start_s / duration) * NUM_COLUMNS));
    const last = Math.min(NUM_COLUMNS, Math.max(first + 1, Math.round((end_s / duration) * NUM_COLUMNS)));
    for (let i = first; i < last; i++) {
      sums[i] += score;
      counts[i] += 1;
    }
  }
  return sums.map((sum, i) => (counts[i] ? sum / counts[i] : null));
}

/** The best hits that do not overlap one another, best first. */
export function peaksOf(hits, limit = 5) {
  const peaks = [];
  for (const hit of [...hits].sort((a, b) => b.score - a.score)) {
    if (peaks.length === limit) break;
    if (peaks.every((peak) => hit.end_s <= peak.start_s || hit.start_s >= peak.end_s)) peaks.push(hit);
  }
  return peaks;
}

/** The curve as a picture, from the video's worst (flat) to its best (full height). */
export function curve(hits, duration) {
  const columns = columnsOf(hits, duration);
  const scores = columns.filter((score) => score !== null);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const heightOf = (score) => 8 + (high > low ? ((score - low) / (high - low)) * (HEIGHT - 8) : HEIGHT / 2);
  const step = WIDTH / columns.length;
  let path = "M0 100";
  columns.forEach((score, i) => {
    const y = HEIGHT - (score === null ? 0 : heightOf(score));
    path += `L${(i * step).toFixed(1)} ${y.toFixed(1)}H${((i + 1) * step).toFixed(1)}`;
  });
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", class: "curve", "aria-hidden": "true" },
    svg("path", { d: `${path}V100Z` }),
  );
}
