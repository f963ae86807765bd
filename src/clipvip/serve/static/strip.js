// The film strip of a card: frames of its segment, shown one at a time where the thumbnail is.

import { el } from "./dom.js";

const FRAME_MS = 450;
const REST_MS = 120; // a pointer that only passes by shall not make the server decode
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * An element that lies over a thumbnail. `over` is what the pointer moves on: its place chooses the frame.
 * With the keyboard the frames follow one another; whoever wants no motion sees them all, small, side by side.
 */
export function filmStrip(url, aspect, over) {
  const strip = el("span", { class: "strip", "aria-hidden": "true" });
  let numFrames = 0; // 0: not here yet
  let timer = 0;
  let wanted = null; // what to do as soon as the frames are here
  let waiting = 0; // a timer, until they are asked for
  let isAsked = false;

  const load = () => {
    isAsked = true;
    const image = new Image();
    image.onload = () => {
      numFrames = Math.max(1, Math.round(image.naturalWidth / image.naturalHeight / aspect));
      strip.style.backgroundImage = `url("${url}")`;
      wanted?.();
    };
    image.onerror = () => (isAsked = false); // the thumbnail stays; asked again next time
    image.src = url;
  };

  const showFrame = (i) => {
    strip.classList.add("on");
    strip.style.backgroundSize = `${numFrames * 100}% 100%`;
    strip.style.backgroundPosition = `${numFrames > 1 ? (i / (numFrames - 1)) * 100 : 0}% 0`;
    strip.style.setProperty("--at", String((i + 1) / numFrames));
  };

  const start = (show) => {
    wanted = show;
    if (numFrames) show();
    else if (!isAsked) waiting ||= setTimeout(load, REST_MS);
  };

  const stop = () => {
    wanted = null;
    clearTimeout(waiting);
    waiting = 0;
    clearInterval(timer);
    strip.classList.remove("on", "whole");
  };

  over.addEventListener("pointermove", ({ pointerType, offsetX }) => {
    if (pointerType === "touch") return;
    const share = Math.min(Math.max(offsetX / over.clientWidth, 0), 0.999);
    clearInterval(timer);
    start(() => showFrame(Math.floor(share * numFrames)));
  });
  over.addEventListener("pointerleave", stop);

  const play = () =>
    start(() => {
      clearInterval(timer);
      if (calm.matches) {
        strip.classList.add("on", "whole");
        strip.style.backgroundSize = "100% auto";
        strip.style.backgroundPosition = "0 100%";
        return;
      }
      let i = 0;
      showFrame(i);
      timer = setInterval(() => showFrame(++i % numFrames), FRAME_MS);
    });

  return { strip, play, stop };
}
