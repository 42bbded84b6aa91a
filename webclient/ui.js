// What every view uses: Preact's h bound to htm, icons, avatars, and dates as people read them.

import { h } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);

const PATHS = {
  back: "M15 5l-7 7 7 7",
  send: "M4 12h15M13 6l6 6-6 6",
  search: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13M15.5 15.5L20 20",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  leave: "M10 4H5v16h5M14 8l4 4-4 4M18 12H9",
  smile: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M8.5 14.5c2 2.3 5 2.3 7 0M9 9.5v.5M15 9.5v.5",
  close: "M6 6l12 12M18 6L6 18",
  clock: "M12 4a8 8 0 1 0 0 16 8 8 0 1 0 0-16M12 8v4l2.5 2",
  alert: "M12 5v9M12 18v.5",
  check: "M5 12.5l4.5 4.5L19 7.5",
  checks: "M1 12.5l4.5 4.5L15 7.5M11 17l9.5-9.5",
};

/** A line drawing on a grid of 24 by 24. */
export function Icon({ name }) {
  return html`<svg viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
}

/** A person's initial on a colour that their name decides; without a name, the lobby's sign. */
export function Avatar({ name, here = false, small = false }) {
  let hue = "lobby";
  if (name) {
    let hash = 0;
    for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) % 9973;
    hue = hash % 8;
  }
  const initial = name ? [...name][0].toUpperCase() : "#";
  const kind = `avatar${small ? " small" : ""}${here ? " here" : ""}`;
  return html`<span class=${kind} data-hue=${hue} aria-hidden="true">${initial}</span>`;
}

export const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
export const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

/** A time of today, or the date of another day: for lists. */
export function brief(when) {
  return when.toDateString() === new Date().toDateString() ? clock.format(when) : date.format(when);
}
