// The server's REST interface. Addresses are relative to the page, so that it also works below a proxy's path.

const api = (path) => new URL(`api/${path}`, document.baseURI).href;
const part = encodeURIComponent;

/** What went wrong, in a sentence for people. status 0: the server did not answer at all. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { name: "ApiError", status, code });
  }

  get isGone() {
    return this.status === 0;
  }
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(api(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "no_answer", "The server does not answer.");
  }
  if (response.status === 204) return null;
  const body = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null;
  });
  if (response.ok && body !== null) return body;
  if ([502, 503, 504].includes(response.status) && !body?.error) {
    throw new ApiError(0, "no_answer", "The server does not answer."); // a proxy does, in its place
  }
  const { code = "failed", message = `The server answered ${response.status} ${response.statusText}.` } =
    body?.error ?? {};
  throw new ApiError(response.status, code, message);
}

const post = (path, body, signal) =>
  call(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });

export const status = () => call("status");
export const libraries = () => call("libraries");
export const search = (body, signal) => post("search", body, signal);
export const video = (videoId, signal) => call(`videos/${part(videoId)}`, { signal });
export const hitsWithin = (videoId, terms, signal) => post(`videos/${part(videoId)}/hits`, { terms }, signal);
export const jobs = () => call("jobs");
export const job = (jobId) => call(`jobs/${part(jobId)}`);
export const startJob = (body) => post("jobs", body);
export const cancelJob = (jobId) => call(`jobs/${part(jobId)}`, { method: "DELETE" });
export const jobEvents = (jobId) => new EventSource(api(`jobs/${part(jobId)}/events`));

/** A sentence about a video that does not play: the media element itself tells none. */
export async function whyNoStream(videoId) {
  try {
    const response = await fetch(streamUrl(videoId), { headers: { Range: "bytes=0-0" } });
    if (response.ok) return "This browser cannot play the video.";
    const body = await response.json().catch(() => null);
    return body?.error?.message ?? `The server answered ${response.status}.`;
  } catch {
    return "The server does not answer.";
  }
}

/** An image or a video to search by. */
export function upload(file, signal) {
  const form = new FormData();
  form.append("file", file, file.name || "pasted");
  return call("uploads", { method: "POST", body: form, signal });
}

export const thumbnailUrl = (segmentId) => api(`segments/${part(segmentId)}/thumbnail`);
export const stripUrl = (segmentId) => api(`segments/${part(segmentId)}/strip`);
export const streamUrl = (videoId) => api(`videos/${part(videoId)}/stream`);
