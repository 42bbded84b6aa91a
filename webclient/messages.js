// The list of messages: one node for each, grouped by sender and day.

import { byId, element, icon, reconcile, setAvatar, setText } from "./dom.js";

const FOLLOWS_MS = 5 * 60 * 1000; // a message within five minutes of its sender's last goes without a heading
const CHECKS = "M1 12.5l4.5 4.5L15 7.5M11 17l9.5-9.5";
const TICKS = {
  sending: ["M12 4a8 8 0 1 0 0 16 8 8 0 1 0 0-16M12 8v4l2.5 2", "Sending"],
  failed: ["M12 5v9M12 18v.5", "Not sent"],
  stored: ["M5 12.5l4.5 4.5L19 7.5", "Stored"],
  delivered: [CHECKS, "Delivered"],
  read: [CHECKS, "Read"],
};

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });

export class MessageList {
  /** `actions`: `retry(id)` and `discard(id)` for a refused message of our own. */
  constructor(actions) {
    this.actions = actions;
    this.list = byId("messages");
  }

  render(conversation) {
    const make = (row) => (row.day ? element("li", "day", element("span", "", row.day)) : makeMessage(row));
    reconcile(this.list, rowsOf(conversation), (row) => row.key, make, (node, row) => this.#update(node, row));
  }

  #update(node, { message, follows, state, when }) {
    if (!message) return;
    node.classList.toggle("follows", follows);
    if (message.seq) node.dataset.seq = message.seq;
    const time = node.querySelector("time");
    if (time.dateTime !== when.toISOString()) {
      time.dateTime = when.toISOString();
      time.title = when.toLocaleString();
      setText(time, clock.format(when));
    }
    if (!state || node.dataset.state === state) return;
    node.dataset.state = state;
    const tick = node.querySelector(".tick");
    const [path, label] = TICKS[state];
    tick.replaceChildren(icon(path));
    tick.setAttribute("aria-label", label);
    tick.title = label;
    node.querySelector(".refusal")?.remove();
    if (state === "failed") node.querySelector(".bubble").append(this.#refusal(message));
  }

  #refusal({ id, failed }) {
    const again = element("button", "quiet", "Try again");
    const away = element("button", "quiet", "Discard");
    again.type = away.type = "button";
    again.addEventListener("click", () => this.actions.retry(id));
    away.addEventListener("click", () => this.actions.discard(id));
    return element("div", "refusal", element("span", "", `Not sent: ${failed}`), again, away);
  }
}

function makeMessage({ message, own }) {
  const text = element("p", "text", message.content);
  text.dir = "auto";
  const meta = element("span", "meta", element("time"));
  const bubble = element("div", "bubble", element("bdi", "sender", message.sender), text, meta);
  const avatar = element("span", "avatar");
  avatar.setAttribute("aria-hidden", "true");
  setAvatar(avatar, message.sender);
  const node = element("li", "message", avatar, bubble);
  if (own) {
    node.classList.add("own");
    const tick = element("span", "tick");
    tick.setAttribute("role", "img");
    meta.append(tick);
  }
  return node;
}

// Stored messages in order, then what is on its way; days between them.
function rowsOf(conversation) {
  const { me } = conversation;
  // A seq means something within one conversation of one epoch only.
  const where = `${conversation.name} ${conversation.incarnation}`;
  const pending = conversation.pending.map((entry) => ({ ...entry, sender: me, client_id: entry.id }));
  const rows = [];
  let last = null;
  let lastDay = "";
  for (const message of [...conversation.messages, ...pending]) {
    const when = new Date(message.timestamp ?? message.at);
    const today = day.format(when);
    if (today !== lastDay) {
      rows.push({ key: `${where} day ${today}`, day: today });
      last = null;
    }
    const own = message.sender === me;
    // A message of our own keeps its node when it turns from pending to stored.
    const key = own && message.client_id ? `${where} own ${message.client_id}` : `${where} seq ${message.seq}`;
    const follows = last !== null && last.message.sender === message.sender && when - last.when < FOLLOWS_MS;
    last = { key, message, own, when, follows, state: own ? conversation.stateOf(message) : null };
    lastDay = today;
    rows.push(last);
  }
  return rows;
}
