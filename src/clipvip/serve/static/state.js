// What is asked and shown, as the page's address holds it. Pure: an address to a state and back.

/**
 * text: what stands in the search box. terms: {kind: "text" | "segment" | "upload", value, weight, label} besides it.
 * filters: strings as typed. open: the segment that plays. view: "search" | "library".
 */
export const EMPTY = Object.freeze({
  view: "search",
  text: "",
  terms: [],
  filters: Object.freeze({ path: "", root: "", after: "", before: "", min: "", max: "" }),
  perVideo: false,
  sure: false,
  open: "",
});

const FILTERS = Object.keys(EMPTY.filters);
const API_FILTERS = {
  path: ["path", String],
  root: ["root", String],
  after: ["after", String],
  before: ["before", String],
  min: ["min_duration_s", numberOf],
  max: ["max_duration_s", numberOf],
};
/** How often "only sure hits" may be wrong. */
export const FALSE_ALARM = 0.05;

const escape_ = (part) => String(part).replace(/[%|]/g, encodeURIComponent);
const unescape_ = (part) => part.replace(/%(25|7C)/g, decodeURIComponent);

/** What is no number goes to the server as it is: that says what is wrong with it. */
function numberOf(written) {
  return Number.isFinite(Number(written)) ? Number(written) : written;
}

export function fromAddress(query) {
  const given = new URLSearchParams(query);
  const terms = given.getAll("term").flatMap((written) => {
    const [weight, kind, value, label = ""] = written.split("|").map(unescape_);
    const isKnown = ["text", "segment", "upload"].includes(kind) && value && Number.isFinite(Number(weight));
    return isKnown ? [{ kind, value, weight: Number(weight), label }] : [];
  });
  return {
    view: given.get("view") === "library" ? "library" : "search",
    text: given.get("q") ?? "",
    terms,
    filters: Object.fromEntries(FILTERS.map((name) => [name, given.get(name) ?? ""])),
    perVideo: given.has("per_video"),
    sure: given.has("sure"),
    open: given.get("open") ?? "",
  };
}

export function toAddress(state) {
  const query = new URLSearchParams();
  if (state.view !== "search") query.set("view", state.view);
  if (state.text) query.set("q", state.text);
  for (const { kind, value, weight, label } of state.terms) {
    query.append("term", [weight, kind, value, ...(label ? [label] : [])].map(escape_).join("|"));
  }
  for (const name of FILTERS) if (state.filters[name]) query.set(name, state.filters[name]);
  if (state.perVideo) query.set("per_video", "1");
  if (state.sure) query.set("sure", "1");
  if (state.open) query.set("open", state.open);
  return query.size ? `?${query}` : ".";
}

export const isAsking = (state) => state.text.trim() !== "" || state.terms.length > 0;
export const numFilters = (state) => FILTERS.filter((name) => state.filters[name]).length;

/** How sure an answer is can be told of words only. */
export const asksInWords = (state) => state.terms.every(({ kind }) => kind === "text");
export const isSure = (state) => state.sure && asksInWords(state);

/** Equal for states that have the same answer. */
export const questionOf = (state) => toAddress({ ...state, view: "search", open: "" });

/** The terms and filters as POST /api/search takes them. */
export function toQuestion(state) {
  const text = state.text.trim();
  const names = { text: "text", segment: "segment_id", upload: "upload_id" };
  const terms = state.terms.map(({ kind, value, weight }) => ({ [names[kind]]: value, weight }));
  const filters = {};
  for (const [name, [apiName, convert]] of Object.entries(API_FILTERS)) {
    if (state.filters[name]) filters[apiName] = convert(state.filters[name]);
  }
  return { terms: [...(text ? [{ text, weight: 1 }] : []), ...terms], filters };
}
