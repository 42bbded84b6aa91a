// The page's state: signals that views read, and what people can do. Views know nothing else.

import { signal } from "./vendor/signals.js";
import { Client } from "./client.js";
import { direct, LOBBY } from "./conversation.js";
import { Notices } from "./notices.js";
import { request, Session } from "./session.js";
import { Storage } from "./storage.js";
import { Tabs } from "./tabs.js";

const ROSTER_MS = 2000; // the list of who is online is fetched at most this often
const TYPING_AGAIN_MS = 3000; // well before the other side forgets it

export const screen = signal("start"); // start | sign-in | chat
export const config = signal({ accounts: "closed", guests: true });
export const problem = signal(""); // why one is at the sign-in
export const complaint = signal(""); // what the composer says
export const current = signal(sessionStorage.getItem("hubbub.current") ?? LOBBY);
export const pane = signal("list"); // on a phone: list | talk
export const dialog = signal(null); // search | settings | keys | find
export const sought = signal(null); // {conversation, seq}: a message to show
// Grows once for each picture in which something has changed. A view that shows what the client holds reads it:
// the client is no signal, and a component whose signals and properties are the same is not drawn again.
export const frame = signal(0);

export let client = null;
let storage = null;
let tabs = null;
let painting = false;
let rosterAt = 0;
let rosterTimer;
let typingAt = 0;

export const session = new Session({
  renewed: (token) => client?.renew(token),
  ended: (reason) => leave(reason),
});
export const notices = new Notices({ open: (name) => select(name) });

// However many events arrive, views are brought up to date once a frame at most. A hidden page gets no frames,
// but its title shall still count.
function paintSoon() {
  if (painting) return;
  painting = true;
  const paint = () => {
    painting = false;
    if (!client) return;
    frame.value += 1;
    const unread = [...client.conversations.values()].reduce((sum, one) => sum + one.unread, 0);
    notices.count(unread);
  };
  if (document.hidden) setTimeout(paint, 250);
  else requestAnimationFrame(paint);
}

// --- coming and going -------------------------------------------------------------------------------

// A reload at once must not lose what the storage was about to write.
addEventListener("pagehide", () => storage?.flush());

export async function start() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  // Out of the address bar and the history, where it could be read over a shoulder or copied along.
  if (token) history.replaceState(null, "", location.pathname + location.search);
  request("/api/config").then((found) => (config.value = found), () => null);
  if (token) await attempt(() => session.enter({ kind: "token", token }));
  else if (session.who?.username) await begin();
  else screen.value = "sign-in";
}

/** Sign in by `enter()`, or say why not. */
export async function attempt(enter) {
  problem.value = "";
  try {
    await enter();
  } catch (error) {
    problem.value = error.status ? error.message : "The server does not answer. Please try again in a moment.";
    screen.value = "sign-in";
    return;
  }
  await begin();
}

async function begin() {
  const { username } = session;
  storage = await Storage.of(username);
  tabs = new Tabs(username, {
    read: (name, seq) => client?.readElsewhere(name, seq),
    left: () => leave("You signed out in another window.", false),
  });
  client = new Client({ connect, notify: heard, explain, storage, username });
  // The window may have shown a conversation of somebody else who was signed in here before.
  const [kind, ...parties] = current.value.split(":");
  if (kind !== "direct" || !parties.includes(username)) current.value = LOBBY;
  client.start();
  session.watch();
  // With something to show it is shown at once; otherwise when the server has said who one is.
  if (storage.conversations.length || storage.pending.length) enterChat();
  paintSoon();
}

function enterChat() {
  if (screen.value === "chat") return;
  screen.value = "chat";
  client.open(current.value);
}

export async function leave(reason = "", everywhere = true) {
  client?.stop();
  client = null;
  if (everywhere) tabs?.leave();
  tabs?.close();
  problem.value = reason;
  dialog.value = null;
  current.value = LOBBY;
  pane.value = "list";
  screen.value = "sign-in";
  notices.count(0);
  await Promise.all([session.leave(), storage?.wipe()]);
}

function connect() {
  const { token, username } = session.who;
  const credentials = token ? "" : `?username=${encodeURIComponent(username)}`;
  const protocols = token ? ["hubbub.v1", `bearer.${token}`] : ["hubbub.v1"];
  return new WebSocket(`${location.origin.replace(/^http/, "ws")}/ws${credentials}`, protocols);
}

// A browser does not say why a WebSocket's handshake failed; the same credentials over HTTP do.
async function explain() {
  try {
    await session.ask("/api/me");
  } catch (error) {
    if (![400, 401, 403].includes(error.status)) return null;
    if (error.status === 401 && session.who?.kind === "account") {
      await session.renew();
      return null;
    }
    return error.message;
  }
  return null;
}

// --- what the client reports ------------------------------------------------------------------------

function heard(what, detail) {
  if (!client) return;
  if (what === "state") stateChanged();
  else if (what === "roster") rosterSoon();
  else if (what === "problem") complaint.value = detail;
  else if (what === "conversation") conversationChanged(detail);
  paintSoon();
}

function stateChanged() {
  if (client.state === "stopped" && client.reason) {
    const { reason } = client;
    queueMicrotask(() => leave(reason, false));
  }
  if (client.state === "waiting" && screen.value === "start") {
    problem.value = "The server does not answer. Trying again…";
    screen.value = "sign-in";
  }
  if (client.state !== "online") return;
  problem.value = "";
  enterChat();
  client.open(current.value);
}

function conversationChanged(name) {
  const conversation = client.conversation(name);
  conversation.version = (conversation.version ?? 0) + 1;
  storage.later(name, (most) => client?.conversation(name).snapshot(most));
  if (name !== current.value) client.trim(name);
  notices.news(conversation, client.username, client.state === "online");
}

function rosterSoon() {
  if (rosterTimer) return;
  const wait = Math.max(0, rosterAt + ROSTER_MS - Date.now());
  rosterTimer = setTimeout(async () => {
    rosterTimer = undefined;
    rosterAt = Date.now();
    const answer = await session.ask("/api/users/online").catch(() => null);
    if (answer) client?.setOnline(answer.users);
  }, wait);
}

// --- what people do ---------------------------------------------------------------------------------

export function select(name, screenToo = true) {
  current.value = name;
  sessionStorage.setItem("hubbub.current", name);
  complaint.value = "";
  if (screenToo) pane.value = "talk";
  client.open(name);
  paintSoon();
}

export function selectPerson(username) {
  select(direct(client.username, username));
}

/** The conversation `step` places further in the list. */
export function selectNext(step) {
  const names = listed().map(({ name }) => name);
  const at = names.indexOf(current.value);
  select(names[(at + step + names.length) % names.length]);
}

export function send(text) {
  const bytes = new TextEncoder().encode(text).length;
  if (bytes > client.limits.content_bytes) {
    complaint.value = `That is too long: ${bytes} bytes, and ${client.limits.content_bytes} are allowed.`;
    return false;
  }
  complaint.value = "";
  typingAt = 0;
  saveDraft("");
  client.send(current.value, text);
  return true;
}

export function draft() {
  return storage?.drafts[current.value] ?? "";
}

export function saveDraft(text) {
  storage?.saveDraft(current.value, text);
}

export function typed(text) {
  const now = Date.now();
  if (!text) {
    if (typingAt) client.typing(current.value, false);
    typingAt = 0;
  } else if (now - typingAt > TYPING_AGAIN_MS) {
    typingAt = now;
    client.typing(current.value, true);
  }
}

/** A person sees the end of the conversation. */
export function seen(name) {
  if (document.hidden || !document.hasFocus()) return;
  const conversation = client.conversation(name);
  if (conversation.readSeq >= (conversation.position ?? 0) && !conversation.unread) return;
  client.markRead(name);
  tabs.read(name, conversation.readSeq);
}

/** Show a message that a search has found, with what stands around it. */
export async function show({ conversation: name, seq }) {
  dialog.value = null;
  select(name);
  const conversation = client.conversation(name);
  while (conversation.position === null || (conversation.older && conversation.base >= seq)) {
    if (conversation.position === null) await new Promise((resolve) => setTimeout(resolve, 50));
    else if (!(await client.loadOlder(name))) break;
    if (client.state !== "online") return;
  }
  sought.value = { conversation: name, seq };
}

/** The conversations in the order of the list. */
export function listed() {
  const all = [...client.conversations.values()].filter(
    ({ name, position, pending }) => name === LOBBY || name === current.value || position > 0 || pending.length,
  );
  return all.sort((a, b) => (b.name === LOBBY) - (a.name === LOBBY) || activity(b) - activity(a));
}

function activity({ messages, pending }) {
  return pending.at(-1)?.at ?? (messages.length ? Date.parse(messages.at(-1).timestamp) : 0);
}
