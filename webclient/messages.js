// The list of messages: grouped by sender and day, with a line above what is new.

import { memo } from "./memo.js";
import { Markdown } from "./markdown.js";
import { client } from "./state.js";
import { Avatar, clock, day, html, Icon } from "./ui.js";

const FOLLOWS_MS = 5 * 60 * 1000; // a message within five minutes of its sender's last goes without a heading
const TICKS = {
  sending: ["clock", "Sending"],
  failed: ["alert", "Not sent"],
  stored: ["check", "Stored"],
  delivered: ["checks", "Delivered"],
  read: ["checks", "Read"],
};

/** Stored messages in order, then what is on its way; days between them, and a line above the first of `fresh`. */
export function rowsOf(conversation, fresh) {
  const { me } = conversation;
  // A seq means something within one conversation of one epoch only.
  const where = `${conversation.name} ${conversation.incarnation}`;
  const pending = conversation.pending.map((entry) => ({ ...entry, sender: me, client_id: entry.id }));
  const rows = [];
  let last = null;
  let lastDay = "";
  let marked = false;
  for (const message of [...conversation.messages, ...pending]) {
    const when = new Date(message.timestamp ?? message.at);
    const today = day.format(when);
    if (today !== lastDay) {
      rows.push({ key: `${where} day ${today}`, line: today, kind: "day" });
      last = null;
    }
    if (!marked && fresh !== null && message.seq > fresh && message.sender !== me) {
      marked = true;
      rows.push({ key: `${where} new`, line: "New", kind: "day new" });
      last = null;
    }
    const own = message.sender === me;
    // A message of our own keeps its place when it turns from pending to stored.
    const key = own && message.client_id ? `${where} own ${message.client_id}` : `${where} seq ${message.seq}`;
    const follows = last !== null && last.sender === message.sender && when - last.when < FOLLOWS_MS;
    last = { key, message, own, when, follows, sender: message.sender, state: own ? conversation.stateOf(message) : null };
    lastDay = today;
    rows.push(last);
  }
  return rows;
}

export function Rows({ rows, name, found }) {
  return rows.map((row) =>
    row.line
      ? html`<li key=${row.key} class=${row.kind}><span>${row.line}</span></li>`
      : html`<${Message} key=${row.key} ...${row} name=${name} found=${found !== null && row.message.seq === found} />`,
  );
}

// Drawn again only when something that shows has changed: a long conversation has thousands of them.
const Message = memo(
  function Message({ message, own, when, follows, state, name, found }) {
    const kind = `message${own ? " own" : ""}${follows ? " follows" : ""}${found ? " found" : ""}`;
    return html`
      <li class=${kind} data-seq=${message.seq} data-state=${state ?? undefined}>
        <${Avatar} name=${message.sender} />
        <div class="bubble">
          <bdi class="sender">${message.sender}</bdi>
          <${Markdown} text=${message.content} />
          <span class="meta">
            <time datetime=${when.toISOString()} title=${when.toLocaleString()}>${clock.format(when)}</time>
            ${state && html`<${Tick} state=${state} />`}
          </span>
          ${state === "failed" && html`<${Refusal} message=${message} name=${name} />`}
        </div>
      </li>
    `;
  },
  (a, b) =>
    a.message.seq === b.message.seq &&
    a.message.content === b.message.content &&
    a.message.failed === b.message.failed &&
    a.state === b.state &&
    a.follows === b.follows &&
    a.found === b.found &&
    a.when.getTime() === b.when.getTime(),
);

function Tick({ state }) {
  const [icon, label] = TICKS[state];
  return html`<span class="tick" role="img" aria-label=${label} title=${label}><${Icon} name=${icon} /></span>`;
}

function Refusal({ message, name }) {
  return html`
    <div class="refusal">
      <span>Not sent: ${message.failed}</span>
      <button class="quiet" type="button" onClick=${() => client.retry(name, message.id)}>Try again</button>
      <button class="quiet" type="button" onClick=${() => client.discard(name, message.id)}>Discard</button>
    </div>
  `;
}
