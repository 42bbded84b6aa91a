// The right pane: one conversation, its banner, its messages and the field to write in.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import { Composer } from "./composer.js";
import { rowsOf, Rows } from "./messages.js";
import { client, current, frame, pane, seen, sought } from "./state.js";
import { Avatar, html, Icon } from "./ui.js";

const BOTTOM = 60; // pixels from the end that still count as reading the newest
const TOP = 600; // pixels from the start at which older messages are fetched

export function Talk() {
  void frame.value;
  const conversation = client.conversation(current.value);
  const { name, peer } = conversation;
  const online = client.state === "online";
  const here = online && peer !== null && client.online.has(peer);
  const presence = peer === null ? `${client.online.size} online` : here ? "online" : "offline";
  return html`
    <main class="talk" aria-labelledby="title">
      <header class="bar">
        <button class="back" type="button" aria-label="Back to the conversations" onClick=${() => (pane.value = "list")}>
          <${Icon} name="back" />
        </button>
        <${Avatar} name=${peer} here=${here} />
        <div class="bar-text">
          <h2 id="title" class="bar-title"><bdi>${peer ?? "Lobby"}</bdi></h2>
          <p id="subtitle" class=${here ? "muted here" : "muted"}>${online ? presence : "connecting…"}</p>
        </div>
      </header>
      <${Banner} />
      <${Log} key=${name} conversation=${conversation} />
      <p id="typing" class="typing muted" aria-live="polite">${typingText([...conversation.typing.keys()])}</p>
      <${Composer} key=${`text ${name}`} />
    </main>
  `;
}

function Banner() {
  void frame.value;
  const [, tick] = useState(0);
  const waiting = client.state === "waiting";
  const seconds = waiting ? Math.ceil((client.retryAt - Date.now()) / 1000) : 0;
  useEffect(() => {
    if (seconds <= 1) return undefined;
    const timer = setTimeout(() => tick((n) => n + 1), 1000);
    return () => clearTimeout(timer);
  });
  const away = client.state !== "online";
  const rest = seconds > 1 ? ` in ${seconds} s` : "";
  return html`
    <div id="banner" class="banner" role="status" hidden=${!away}>
      <span>Reconnecting${rest}… What you write waits here and goes out by itself.</span>
      <button class="quiet" type="button" hidden=${!waiting} onClick=${() => client.reconnectNow()}>Try now</button>
    </div>
  `;
}

function Log({ conversation }) {
  void frame.value;
  const log = useRef(null);
  const view = useRef({ stick: true, base: conversation.base, last: conversation.position ?? 0 });
  const [behind, setBehind] = useState(false);
  const [news, setNews] = useState("");
  // Where reading began: the line above what is new stays while one reads on.
  const [fresh] = useState(() => (conversation.unread ? conversation.readSeq : null));
  const { name, version, base, position } = conversation;
  const shown = view.current;
  if (shown.stick) client.trim(name);
  // What the reader looks at stays where it is when older messages come in above it.
  const anchor = !shown.stick && log.current && base < shown.base ? firstVisible(log.current) : null;
  const rows = useMemo(() => rowsOf(conversation, fresh), [conversation, version, conversation.pending.length]);
  const found = sought.value?.conversation === name ? sought.value.seq : null;

  useLayoutEffect(() => {
    const node = log.current;
    if (anchor) node.scrollTop += anchor.node.getBoundingClientRect().top - anchor.top;
    else if (shown.stick) node.scrollTop = node.scrollHeight;
    shown.base = base;
  });

  useEffect(() => {
    const arrived = conversation.messages.filter(({ seq, sender }) => seq > shown.last && sender !== client.username);
    if (shown.last && arrived.length) {
      const { sender, content } = arrived.at(-1);
      setNews(arrived.length > 1 ? `${arrived.length} new messages` : `${sender}: ${content}`);
      if (!shown.stick) setBehind(true);
    }
    shown.last = position ?? 0;
    if (shown.stick) seen(name);
    // A page that is not filled has nothing to scroll: fetch until it is.
    if (log.current.scrollHeight <= log.current.clientHeight + TOP) client.loadOlder(name);
  });

  useEffect(() => {
    if (found === null) return;
    shown.stick = false;
    log.current.querySelector(`[data-seq="${found}"]`)?.scrollIntoView({ block: "center" });
  }, [found, rows.length]);

  useEffect(() => {
    const look = () => shown.stick && seen(name);
    const fit = () => shown.stick && (log.current.scrollTop = log.current.scrollHeight);
    addEventListener("focus", look);
    addEventListener("resize", fit);
    document.addEventListener("visibilitychange", look);
    return () => {
      removeEventListener("focus", look);
      removeEventListener("resize", fit);
      document.removeEventListener("visibilitychange", look);
    };
  }, []);

  function scrolled({ currentTarget: node }) {
    shown.stick = node.scrollHeight - node.scrollTop - node.clientHeight < BOTTOM;
    if (shown.stick) {
      if (behind) setBehind(false);
      if (found !== null) sought.value = null;
      seen(name);
    }
    if (node.scrollTop < TOP) client.loadOlder(name);
  }

  function toEnd() {
    shown.stick = true;
    setBehind(false);
    log.current.scrollTop = log.current.scrollHeight;
  }

  return html`
    <div id="log" class="log" role="log" aria-live="off" aria-label="Messages" tabindex="0" ref=${log} onScroll=${scrolled}>
      <p id="edge" class="edge muted">${edgeText(conversation)}</p>
      <ol id="messages" class="messages"><${Rows} rows=${rows} name=${name} found=${found} /></ol>
    </div>
    ${behind && html`<button id="jump" class="jump" type="button" onClick=${toEnd}>New messages</button>`}
    <p class="visually-hidden" aria-live="polite">${news}</p>
  `;
}

function firstVisible(log) {
  const { top } = log.getBoundingClientRect();
  for (const node of log.querySelectorAll("#messages .message")) {
    const box = node.getBoundingClientRect();
    if (box.bottom > top) return { node, top: box.top };
  }
  return null;
}

function edgeText({ loading, older, position, peer, messages }) {
  if (loading) return "Loading…";
  if (older || position === null) return "";
  if (!messages.length) return peer === null ? "Nobody has said anything yet." : `Say hello to ${peer}.`;
  return "This is where it begins.";
}

function typingText(names) {
  if (!names.length) return "";
  if (names.length === 1) return `${names[0]} is typing…`;
  return names.length === 2 ? `${names[0]} and ${names[1]} are typing…` : "Several people are typing…";
}
