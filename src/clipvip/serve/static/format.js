// Numbers for people.

const number = new Intl.NumberFormat("en");
const hours = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const plural = new Intl.PluralRules("en");

export const count = (n) => number.format(n);

/** "1 video", "2,000 videos". */
export const counted = (n, one, many = `${one}s`) => `${count(n)} ${plural.select(n) === "one" ? one : many}`;

/** 75.4 -> "1:15", with tenths "1:15.4"; 3675 -> "1:01:15". */
export function time(seconds, tenths = false) {
  const units = Math.round(seconds * (tenths ? 10 : 1));
  const whole = tenths ? Math.floor(units / 10) : units;
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const rest = tenths ? `.${units % 10}` : "";
  const two = (n) => String(n).padStart(2, "0");
  return (h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`) + rest;
}

/** A segment; in tenths of a second if it is so short that whole ones say little. */
export function range(start, end) {
  const tenths = end - start < 2;
  return `${time(start, tenths)}–${time(end, tenths)}`;
}

/** For screen readers: "8 seconds", "1 minute 15 seconds". */
export function spokenTime(seconds) {
  const whole = Math.round(seconds);
  const [m, s] = [Math.floor(whole / 60), whole % 60];
  return m ? `${counted(m, "minute")} ${counted(s, "second")}` : counted(s, "second");
}

export const duration = (h) => (h >= 1 ? `${hours.format(h)} h` : `${hours.format(h * 60)} min`);

export function bytes(n) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  const i = Math.min(Math.floor(Math.log10(Math.max(n, 1)) / 3), units.length - 1);
  return `${hours.format(n / 1000 ** i)} ${units[i]}`;
}

export const score = (s) => s.toFixed(3);

/** The last part of a path, and what stands before it. */
export function splitPath(path) {
  const cut = path.lastIndexOf("/");
  return [path.slice(0, Math.max(cut, 0)), path.slice(cut + 1)];
}
