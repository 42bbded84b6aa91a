// The title's badge, and desktop notifications: only where somebody asked for them, and only while nobody looks.

import { signal } from "./vendor/signals.js";

const KEY = "hubbub.notify";

/** "off" | "on" | "denied" | "missing" */
export const notifying = signal(state());

function state() {
  if (!globalThis.Notification) return "missing";
  if (Notification.permission === "denied") return "denied";
  return Notification.permission === "granted" && localStorage.getItem(KEY) === "on" ? "on" : "off";
}

/** Asked for by a click. */
export async function switchNotifying() {
  if (notifying.value === "on") localStorage.removeItem(KEY);
  else if ((await Notification.requestPermission()) === "granted") localStorage.setItem(KEY, "on");
  notifying.value = state();
}

export class Notices {
  /** `open(name)` shows a conversation. */
  constructor({ open }) {
    this.open = open;
    this.told = new Map(); // conversation -> the seq up to which there was a notice
  }

  count(unread) {
    const title = unread ? `(${unread > 99 ? "99+" : unread}) Hubbub` : "Hubbub";
    if (document.title !== title) document.title = title;
    const badge = unread ? navigator.setAppBadge?.(unread) : navigator.clearAppBadge?.();
    badge?.catch(() => null); // a browser may have it and still refuse
  }

  news(conversation, me, online) {
    const { name, position, peer } = conversation;
    const told = this.told.get(name);
    this.told.set(name, position);
    const last = conversation.messages.at(-1);
    if (told === undefined || told === null || !online || !last || last.seq <= told || last.sender === me) return;
    if (notifying.value !== "on" || (!document.hidden && document.hasFocus())) return;
    const notice = new Notification(peer === null ? `${last.sender} in the lobby` : last.sender, {
      body: last.content.slice(0, 200),
      tag: name, // a newer one takes the place of the last
      icon: "/icons/192.png",
    });
    notice.onclick = () => {
      window.focus();
      this.open(name);
      notice.close();
    };
  }
}
