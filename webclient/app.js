// The page: shows what the client holds, and tells it what people do.

import { Client } from "./client.js";
import { direct, LOBBY } from "./conversation.js";
import { byId, clear, element, reconcile, setAvatar, setText } from "./dom.js";
import { MessageList } from "./messages.js";

const USERNAME = /^[\p{L}\p{N}_.@+-]{1,64}$/u; // the server's rule
const TYPING_AGAIN_MS = 3000; // well before the other side forgets it
const ROSTER_MS = 2000; // the list of who is online is fetched at most this often
const ONLINE_SHOWN = 200;
const BOTTOM = 60; // pixels from the end that still count as reading the newest
const TOP = 300; // pixels from the start at which older messages are fetched

const session = {
  get who() {
    return JSON.parse(sessionStorage.getItem("hubbub.who") ?? "null");
  },
  set who(value) {
    if (value) sessionStorage.setItem("hubbub.who", JSON.stringify(value));
    else sessionStorage.removeItem("hubbub.who");
  },
};

let client = null;
let current = sessionStorage.getItem("hubbub.current") ?? LOBBY;
let stick = true; // the view follows the newest message
let shown = { name: null, base: 0, last: 0 }; // what the log showed after the last paint
let painting = false;
let rosterAt = 0;
let rosterTimer;
let typingAt = 0;
let countdown;
const drafts = new Map();
const messages = new MessageList({
  retry: (id) => client.retry(current, id),
  discard: (id) => client.discard(current, id),
});
const log = byId("log");
const text = byId("text");

// --- signing in -----------------------------------------------------------------------------------

function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return false;
  // Out of the address bar and the history, where it could be read over a shoulder or copied along.
  history.replaceState(null, "", location.pathname + location.search);
  session.who = { token };
  return true;
}

function showSignIn(problem = "") {
  byId("chat").hidden = true;
  byId("sign-in").hidden = false;
  setText(byId("sign-in-problem"), problem);
  byId("name").focus();
}

function signIn(who) {
  session.who = who;
  client?.stop();
  const credentials = who.token ? "" : `?username=${encodeURIComponent(who.name)}`;
  const protocols = who.token ? ["hubbub.v1", `bearer.${who.token}`] : ["hubbub.v1"];
  const url = `${location.origin.replace(/^http/, "ws")}/ws${credentials}`;
  client = new Client({
    connect: () => new WebSocket(url, protocols),
    notify: heard,
    explain,
    storage: localStorage,
  });
  client.start();
}

function signOut(problem = "") {
  client?.stop();
  client = null;
  session.who = null;
  drafts.clear();
  text.value = "";
  typingAt = 0;
  for (const id of ["conversations", "online", "messages"]) clear(byId(id));
  setText(document.querySelector("title"), "Hubbub");
  showSignIn(problem);
}

function fetchOnline() {
  const { who } = session;
  const headers = who.token ? { Authorization: `Bearer ${who.token}` } : {};
  return fetch(`/api/users/online${who.token ? "" : `?username=${encodeURIComponent(who.name)}`}`, { headers });
}

// A browser does not say why a WebSocket's handshake failed; the same credentials over HTTP do.
async function explain() {
  const response = await fetchOnline();
  if (![400, 401, 403].includes(response.status)) return null;
  const body = await response.json().catch(() => ({}));
  return body.message ?? body.detail ?? "You could not be signed in.";
}

// --- what the client reports ----------------------------------------------------------------------

function heard(what, detail) {
  if (what === "state") onState();
  else if (what === "roster") rosterSoon();
  else if (what === "problem") setText(byId("text-problem"), detail);
  else if (what === "conversation" && detail !== current) client.trim(detail);
  paintSoon();
}

function onState() {
  if (client.state === "stopped" && client.reason) {
    const { reason } = client;
    queueMicrotask(() => signOut(reason));
  }
  if (client.state === "waiting" && byId("chat").hidden) {
    showSignIn("The server does not answer. Trying again…");
  }
  if (client.state !== "online") return;
  if (!(current === LOBBY || client.conversations.has(current))) current = LOBBY;
  if (byId("chat").hidden) {
    byId("sign-in").hidden = true;
    byId("chat").hidden = false;
    select(current, false);
  }
  client.open(current);
}

function rosterSoon() {
  if (rosterTimer) return;
  const wait = Math.max(0, rosterAt + ROSTER_MS - Date.now());
  rosterTimer = setTimeout(async () => {
    rosterTimer = undefined;
    rosterAt = Date.now();
    try {
      const response = await fetchOnline();
      if (response.ok) client?.setOnline((await response.json()).users);
    } catch {
      // Not reachable: the next connection asks again.
    }
  }, wait);
}

// --- painting -------------------------------------------------------------------------------------

// However many events arrive, the page is brought up to date once a frame at most. A hidden page gets
// no frames, but its title shall still count.
function paintSoon() {
  if (painting) return;
  painting = true;
  const paintNow = () => {
    painting = false;
    if (client) paint();
  };
  if (document.hidden) setTimeout(paintNow, 250);
  else requestAnimationFrame(paintNow);
}

function paint() {
  paintBanner();
  if (byId("chat").hidden || !client.username) return;
  paintSide();
  paintLog();
  paintTitle();
}

function paintBanner() {
  clearTimeout(countdown);
  const waiting = client.state === "waiting";
  const away = client.state !== "online";
  byId("banner").hidden = !away;
  byId("chat").toggleAttribute("data-away", away); // who is online is not known meanwhile
  byId("banner-now").hidden = !waiting;
  if (!away) return;
  const seconds = Math.ceil((client.retryAt - Date.now()) / 1000);
  const rest = waiting && seconds > 1 ? ` in ${seconds} s` : "";
  setText(byId("banner-text"), `Reconnecting${rest}… Your messages wait here.`);
  if (rest) countdown = setTimeout(paintSoon, 1000);
}

function paintSide() {
  setText(byId("me"), client.username);
  setAvatar(byId("me-avatar"), client.username);
  const wanted = byId("find").value.trim().toLowerCase();
  const all = [...client.conversations.values()].filter(
    ({ name, position, pending }) => name === LOBBY || name === current || position > 0 || pending.length,
  );
  all.sort((a, b) => (b.name === LOBBY) - (a.name === LOBBY) || activity(b) - activity(a));
  const found = all.filter(({ peer }) => !wanted || (peer ?? "lobby").toLowerCase().includes(wanted));
  reconcile(byId("conversations"), found, ({ name }) => name, makeConversation, updateConversation);

  const names = [...client.online].filter((name) => !wanted || name.toLowerCase().includes(wanted));
  names.sort((a, b) => (b === client.username) - (a === client.username) || a.localeCompare(b));
  setText(byId("online-count"), String(client.online.size));
  reconcile(byId("online"), names.slice(0, ONLINE_SHOWN), (name) => name, makePerson, () => {});
  const more = names.length - ONLINE_SHOWN;
  byId("online-note").hidden = more <= 0 && names.length > 0;
  setText(byId("online-note"), more > 0 ? `and ${more} more` : "Nobody by that name. Press Enter to write to them.");
}

function activity({ messages: held, pending }) {
  return pending.at(-1)?.at ?? (held.length ? Date.parse(held.at(-1).timestamp) : 0);
}

function makeConversation({ name, peer }) {
  const avatar = element("span", "avatar");
  avatar.setAttribute("aria-hidden", "true");
  setAvatar(avatar, peer ?? "", peer === null);
  const lines = element("span", "lines", element("bdi", "who", peer ?? "Lobby"), element("span", "preview"));
  const button = element("button", "row", avatar, lines, element("span", "badge"));
  button.type = "button";
  button.dataset.conversation = name;
  button.addEventListener("click", () => select(name));
  return element("li", "", button);
}

function updateConversation(node, conversation) {
  const { name, peer, unread, pending } = conversation;
  const button = node.firstElementChild;
  const last = pending.at(-1) ?? conversation.messages.at(-1);
  const sender = last && (last.sender ?? client.username);
  const prefix = sender === client.username ? "You: " : peer === null && last ? `${sender}: ` : "";
  const empty = peer === null ? "Everybody is here" : "No messages yet";
  setText(button.querySelector(".preview"), last ? prefix + last.content.slice(0, 120) : empty);
  const badge = button.querySelector(".badge");
  badge.hidden = unread === 0;
  setText(badge, unread > 99 ? "99+" : String(unread));
  badge.setAttribute("aria-label", `${unread} unread`);
  button.querySelector(".avatar").classList.toggle("here", peer !== null && client.online.has(peer));
  if (name === current) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
}

function makePerson(name) {
  const avatar = element("span", "avatar small here");
  avatar.setAttribute("aria-hidden", "true");
  setAvatar(avatar, name);
  const button = element("button", "row", avatar, element("bdi", "who", name));
  if (name === client.username) button.append(element("span", "muted", "you"));
  button.type = "button";
  button.dataset.user = name;
  button.addEventListener("click", () => select(direct(client.username, name)));
  return element("li", "", button);
}

function paintLog() {
  const conversation = client.conversation(current);
  const { peer } = conversation;
  setText(byId("title"), peer ?? "Lobby");
  setAvatar(byId("title-avatar"), peer ?? "", peer === null);
  const here = client.state === "online" && client.online.has(peer);
  const presence = peer === null ? `${client.online.size} online` : here ? "online" : "offline";
  setText(byId("subtitle"), client.state === "online" ? presence : "connecting…");
  byId("subtitle").classList.toggle("here", here);
  setText(byId("typing"), typingText([...conversation.typing.keys()]));

  if (stick) client.trim(current);
  const same = shown.name === current;
  const height = log.scrollHeight;
  const top = log.scrollTop;
  messages.render(conversation);
  setText(byId("edge"), edgeText(conversation));
  if (stick) log.scrollTop = log.scrollHeight;
  // Older messages came in above: what the reader looks at stays where it is.
  else if (same && conversation.base < shown.base) log.scrollTop = top + log.scrollHeight - height;

  const fresh = conversation.messages.filter(({ seq, sender }) => seq > shown.last && sender !== client.username);
  if (same && shown.last && fresh.length) {
    const { sender, content } = fresh.at(-1);
    setText(byId("announcer"), fresh.length > 1 ? `${fresh.length} new messages` : `${sender}: ${content}`);
    if (!stick) byId("jump").hidden = false;
  }
  shown = { name: current, base: conversation.base, last: conversation.position ?? 0 };
  seen();
  if (log.scrollTop < TOP && isShown()) client.loadOlder(current);
}

function typingText(names) {
  if (names.length === 0) return "";
  if (names.length === 1) return `${names[0]} is typing…`;
  return names.length === 2 ? `${names[0]} and ${names[1]} are typing…` : "Several people are typing…";
}

function edgeText({ loading, older, position, messages: held, pending, peer }) {
  if (loading) return "Loading older messages…";
  if (position === null || older) return "";
  if (held.length || pending.length) return "This is where the conversation begins.";
  return peer === null ? "Nobody has said anything yet. Be the first." : `Say hello to ${peer}.`;
}

function paintTitle() {
  let unread = 0;
  for (const conversation of client.conversations.values()) unread += conversation.unread;
  setText(document.querySelector("title"), unread ? `(${unread}) Hubbub` : "Hubbub");
}

// --- what people do -------------------------------------------------------------------------------

function isShown() {
  return !document.hidden && log.getClientRects().length > 0;
}

/** What stands at the end of the log before a person's eyes has been read. */
function seen() {
  if (client?.state === "online" && stick && isShown()) client.markRead(current);
}

function select(name, turn = true) {
  stopTyping();
  if (text.value) drafts.set(current, text.value);
  else drafts.delete(current);
  current = name;
  sessionStorage.setItem("hubbub.current", name);
  stick = true;
  byId("jump").hidden = true;
  setText(byId("announcer"), "");
  setText(byId("text-problem"), "");
  text.value = drafts.get(name) ?? "";
  client.open(name);
  if (turn) byId("chat").dataset.screen = "talk";
  fit();
  paint();
  // On a touch screen the keyboard would cover what was just opened.
  if (turn && matchMedia("(pointer: fine)").matches) text.focus();
}

function fit() {
  text.rows = 1;
  const line = parseFloat(getComputedStyle(text).lineHeight) || 20;
  text.rows = Math.min(6, Math.max(1, Math.floor((text.scrollHeight - 16) / line)));
}

function tellTyping() {
  if (!text.value.trim()) {
    stopTyping();
  } else if (Date.now() - typingAt > TYPING_AGAIN_MS) {
    typingAt = Date.now();
    client.typing(current, true);
  }
}

function stopTyping() {
  if (typingAt) client.typing(current, false);
  typingAt = 0;
}

function sendText() {
  const content = text.value.trim();
  if (!content) return;
  const size = new TextEncoder().encode(content).length;
  if (size > client.limits.content_bytes) {
    const problem = `This is too long: ${size} bytes of at most ${client.limits.content_bytes}.`;
    setText(byId("text-problem"), problem);
    return;
  }
  setText(byId("text-problem"), "");
  text.value = "";
  typingAt = 0; // the message itself ends the notice
  stick = true;
  byId("jump").hidden = true;
  fit();
  client.send(current, content);
}

byId("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = byId("name").value.trim().normalize("NFKC");
  const problem = USERNAME.test(name) ? "" : "A name has 1 to 64 letters, digits or any of . _ - @ +";
  setText(byId("sign-in-problem"), problem);
  if (!problem) signIn({ name });
});
byId("sign-out").addEventListener("click", () => signOut());
byId("back").addEventListener("click", () => {
  byId("chat").dataset.screen = "list";
});
byId("banner-now").addEventListener("click", () => client.reconnectNow());
byId("find").addEventListener("input", paintSoon);
byId("find-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = byId("find").value.trim().normalize("NFKC");
  if (!USERNAME.test(name)) return;
  byId("find").value = "";
  select(direct(client.username, name));
});
byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  sendText();
});
text.addEventListener("keydown", (event) => {
  // While an input method composes, Enter chooses a candidate.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  sendText();
});
text.addEventListener("input", () => {
  fit();
  tellTyping();
});
text.addEventListener("blur", stopTyping);
log.addEventListener("scroll", () => {
  stick = log.scrollHeight - log.scrollTop - log.clientHeight < BOTTOM;
  if (stick) byId("jump").hidden = true;
  seen();
  if (client && log.scrollTop < TOP) client.loadOlder(current);
}, { passive: true });
byId("jump").addEventListener("click", () => {
  stick = true;
  byId("jump").hidden = true;
  paintSoon();
});
// The keyboard of a phone, a turned screen, a growing text field: the end stays in view.
new ResizeObserver(() => {
  if (stick) log.scrollTop = log.scrollHeight;
  seen();
}).observe(log);
document.addEventListener("visibilitychange", () => client && paintSoon());
addEventListener("online", () => client?.reconnectNow());
addEventListener("hashchange", () => takeToken() && signIn(session.who));

takeToken();
if (session.who) signIn(session.who);
else showSignIn();
