// The client's side of the protocol: connect, sync, apply in order, send until acknowledged, reconnect.
// Free of the page: it reports changes through `notify` and can run anywhere that has WebSocket.

import { Conversation, direct, LOBBY, peerOf } from "./conversation.js";
import { newEntry, newKey } from "./outbox.js";

const RESEND_MS = 5000; // an unanswered send goes out again on the same connection
const RECEIVED_MS = 100; // at most this often, and with few commands, positions are confirmed
const CONFIRMED_AT_ONCE = 2; // 20 a second stay well below the server's rate limit of 50 commands
const REQUEST_MS = 15000; // the server itself gives up after 10 s
const HANDSHAKE_MS = 15000;
const TYPING_MS = 6000; // the protocol's time after which a typing notice is forgotten
const FILL_PAUSE_MS = 250; // before the same hole is asked for again
const SYNC_HAVE_MAX = 500; // conversations in one sync command
const SYNC_TOTAL_MAX = 10000; // and in all of one sync
const KEEP_MESSAGES = 1000; // held of one conversation; the rest is fetched when somebody scrolls there

export class Client {
  /**
   * `connect()` returns a new WebSocket. `notify(what, detail)` hears of `state`, `conversation` (its name),
   * `online` (the set of names has changed), `roster` (the list of who is online is to be fetched anew, see
   * `setOnline`) and `problem` (a text).
   * `explain()` is asked after a refused handshake, whose HTTP status a browser hides: a promise of the
   * reason why trying again is useless, or of null. `storage` is what this device keeps, see `Storage`; what it
   * holds of `username` is shown at once and synced from where it ends.
   */
  constructor({ connect, notify, explain, storage, username, random = Math.random, now = Date.now }) {
    Object.assign(this, { connect, notify, explain, storage, username, random, now });
    this.state = "connecting"; // connecting | syncing | online | waiting | stopped
    this.reason = ""; // why it is waiting or has stopped, for a person
    this.retryAt = 0; // ms since 1970, while waiting
    this.epoch = storage.epoch;
    this.limits = { content_bytes: 16384, in_flight: 64 };
    this.backoff = { min_ms: 200, max_ms: 10000 }; // until a welcome says better
    this.attempts = 0;
    this.conversations = new Map();
    this.online = new Set();
    this.requests = new Map(); // id -> {resolve, reject, timer}
    this.inFlight = new Set(); // keys of sends on this connection
    this.serial = 0;
    this.conversation(LOBBY);
    for (const kept of storage.conversations) this.conversation(kept.name).restore(kept);
    for (const entry of storage.pending) this.conversation(entry.conversation).pending.push(entry);
  }

  start() {
    this.#open();
  }

  /** Close for good; unacknowledged sends stay in the storage. */
  stop(reason = "") {
    this.#drop();
    this.#become("stopped", reason);
  }

  /** Do not wait any longer for the next attempt. */
  reconnectNow() {
    if (this.state === "waiting") this.#open();
  }

  conversation(name) {
    let found = this.conversations.get(name);
    if (!found) {
      found = new Conversation(name, this.username, (key) => this.#settled(key));
      this.conversations.set(name, found);
    }
    return found;
  }

  /** The direct conversation with somebody, fetched if it is not held yet. */
  openDirect(username) {
    const name = direct(this.username, username);
    this.open(name);
    return name;
  }

  /** Somebody looks at it: hold at least its newest page. */
  open(name) {
    const conversation = this.conversation(name);
    conversation.wanted = true;
    if (conversation.position === null && this.state === "online") this.#fill(conversation);
  }

  async send(name, content) {
    const entry = { ...newEntry(name, content, this.now()), keeping: true };
    this.conversation(name).pending.push(entry);
    this.notify("conversation", name);
    await this.storage.keep(entry); // on the device before it is on the wire
    entry.keeping = false;
    this.#pump();
  }

  /** A fresh token: the session goes on with it. */
  renew(token) {
    if (this.state === "syncing" || this.state === "online") this.#write({ type: "token", token });
  }

  /** Try a refused message again. */
  retry(name, id) {
    const conversation = this.conversation(name);
    const entry = conversation.pending.find((each) => each.id === id);
    if (!entry?.failed) return;
    this.storage.remove(id);
    // It was refused, not stored, so a new key is safe, and the only cure where the key was the trouble.
    Object.assign(entry, { id: newKey(), failed: undefined, sent: undefined });
    this.storage.keep(entry);
    this.notify("conversation", name);
    this.#pump();
  }

  /** Forget a refused message. */
  discard(name, id) {
    const conversation = this.conversation(name);
    conversation.pending = conversation.pending.filter((entry) => entry.id !== id);
    this.storage.remove(id);
    this.notify("conversation", name);
  }

  /** Another window of this browser has shown everything up to `seq`. */
  readElsewhere(name, seq) {
    this.conversation(name).seen(seq);
    this.notify("conversation", name);
  }

  /** A person has seen everything of this conversation that is applied. */
  markRead(name) {
    if (!this.conversation(name).markRead()) return;
    this.notify("conversation", name);
    this.#confirmSoon();
  }

  typing(name, on) {
    if (this.state !== "online") return;
    const recipient = peerOf(name, this.username);
    this.#write(recipient === null ? { type: "typing", on } : { type: "typing", recipient, on });
  }

  /** The page of history before what is held. Resolves to whether anything has changed. */
  async loadOlder(name) {
    const conversation = this.conversation(name);
    if (conversation.loading || !conversation.older || this.state !== "online") return false;
    const generation = conversation.generation;
    conversation.loading = true;
    this.notify("conversation", name);
    try {
      const page = await this.#request({ type: "history", conversation: name, before: conversation.base + 1 });
      if (conversation.generation !== generation) return false;
      conversation.prepend(page.from, page.events, page.more);
      return true;
    } catch {
      return false; // asked again when somebody scrolls there again
    } finally {
      conversation.loading = false;
      this.notify("conversation", name);
    }
  }

  /** Let go of old messages of a conversation at whose end the reader is, or which nobody looks at. */
  trim(name) {
    const conversation = this.conversation(name);
    if (conversation.messages.length > KEEP_MESSAGES) conversation.trim(KEEP_MESSAGES / 2);
  }

  setOnline(names) {
    this.online = new Set(names);
    this.notify("online");
  }

  // --- the connection -------------------------------------------------------------------------------

  #become(state, reason = "") {
    this.state = state;
    this.reason = reason;
    this.notify("state");
  }

  #open() {
    clearTimeout(this.timer);
    this.#become("connecting");
    this.goodbye = null;
    this.welcomed = false;
    const socket = this.connect();
    this.socket = socket;
    this.timer = setTimeout(() => this.#lost(1006, "no answer"), HANDSHAKE_MS);
    socket.onmessage = ({ data }) => {
      this.heard = this.now();
      this.pinged = 0;
      this.#event(JSON.parse(data));
    };
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
  }

  // Does not wait for the closing handshake, which a dead network would never finish.
  #drop() {
    clearTimeout(this.timer);
    clearTimeout(this.confirming);
    this.confirming = undefined;
    if (this.socket) {
      this.socket.onmessage = this.socket.onclose = null;
      this.socket.close();
      this.socket = null;
    }
    for (const { reject, timer } of this.requests.values()) {
      clearTimeout(timer);
      reject(new Error("disconnected"));
    }
    this.requests.clear();
    this.inFlight.clear();
    for (const conversation of this.conversations.values()) {
      conversation.disconnected();
      for (const entry of conversation.pending) clearTimeout(entry.timer);
      for (const timer of conversation.typing.values()) clearTimeout(timer);
      conversation.typing.clear();
    }
  }

  async #lost(code, reason) {
    const { goodbye, welcomed } = this;
    this.#drop();
    if (code >= 4500 && code <= 4999) {
      this.#become("stopped", goodbye?.reason || reason || "the server has closed the connection");
      return;
    }
    this.#wait(goodbye?.reason || reason || "", goodbye?.reconnect_after_ms);
    if (welcomed) return;
    const verdict = await this.explain().catch(() => null);
    if (verdict && (this.state === "waiting" || this.state === "connecting")) this.stop(verdict);
  }

  // Full jitter: anywhere between the least wait and a bound that doubles, so that the clients of a
  // server that has died do not come back all at once.
  #wait(reason, after) {
    const { min_ms, max_ms } = this.backoff;
    const bound = Math.min(max_ms, min_ms * 2 ** Math.min(this.attempts + 1, 30));
    const delay = after ?? min_ms + this.random() * (bound - min_ms);
    this.attempts += 1;
    this.retryAt = this.now() + delay;
    this.timer = setTimeout(() => this.#open(), delay);
    this.#become("waiting", reason);
  }

  // A browser answers the server's pings unseen and never tells of a silent network, hence our own.
  #watch({ interval_ms, timeout_ms }) {
    this.timer = setTimeout(() => {
      if (this.pinged && this.now() - this.pinged >= timeout_ms) {
        this.#lost(1006, "no answer");
        return;
      }
      if (!this.pinged && this.now() - this.heard >= interval_ms) {
        this.pinged = this.now();
        this.#write({ type: "ping" });
      }
      this.#watch({ interval_ms, timeout_ms });
    }, Math.min(interval_ms, timeout_ms));
  }

  #write(command) {
    if (this.socket?.readyState === 1) this.socket.send(JSON.stringify(command));
  }

  #request(command) {
    const id = `request-${++this.serial}`;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.requests.delete(id);
        reject(new Error("no answer"));
      }, REQUEST_MS);
      this.requests.set(id, { resolve, reject, timer });
      this.#write({ ...command, id });
    });
  }

  #answer(event) {
    const request = this.requests.get(event.id);
    if (!request) return false;
    this.requests.delete(event.id);
    clearTimeout(request.timer);
    if (event.type === "error") request.reject(event);
    else request.resolve(event);
    return true;
  }

  #event(event) {
    switch (event.type) {
      case "welcome":
        return this.#welcome(event);
      case "ack":
        return this.#ack(event);
      case "receipt":
        this.conversation(event.conversation).receipt(event);
        return this.notify("conversation", event.conversation);
      case "synced":
      case "history":
        return this.#answer(event);
      case "typing":
        return this.#typingNotice(event);
      case "presence":
        this.#answer(event);
        return this.#presence(event);
      case "error":
        return this.#error(event);
      case "goodbye":
        this.goodbye = event;
        return undefined;
      default:
        // Every event with a number in a conversation, of kinds we know or not, moves the position.
        if (event.conversation && Number.isInteger(event.seq)) this.#numbered(event);
        return undefined;
    }
  }

  // --- opening a session ----------------------------------------------------------------------------

  #welcome(event) {
    if (this.welcomed) return; // the answer to a fresh token
    this.welcomed = true;
    clearTimeout(this.timer);
    this.limits = event.limits;
    this.backoff = event.reconnect;
    this.username = event.username;
    this.#epoch(event.epoch);
    this.#watch(event.ping);
    this.#become("syncing");
    this.#sync();
  }

  #epoch(epoch) {
    if (this.epoch !== null && this.epoch !== epoch) {
      for (const conversation of this.conversations.values()) {
        conversation.forget();
        this.notify("conversation", conversation.name);
      }
      this.storage.forgetConversations();
    }
    if (this.epoch !== epoch) this.storage.saveEpoch(epoch);
    this.epoch = epoch;
  }

  async #sync() {
    const socket = this.socket;
    this.arrived = []; // events before `synced`: only that says which ranges they belong to
    const held = [...this.conversations.values()].filter(({ position }) => position !== null);
    const have = held.slice(-SYNC_TOTAL_MAX).map(({ name, position }) => [name, position]);
    while (have.length > SYNC_HAVE_MAX) {
      const part = Object.fromEntries(have.splice(0, SYNC_HAVE_MAX));
      this.#write({ type: "sync", have: part, epoch: this.epoch, more: true });
    }
    try {
      const event = await this.#request({ type: "sync", have: Object.fromEntries(have), epoch: this.epoch });
      this.#synced(event);
    } catch (error) {
      if (this.socket !== socket) return;
      if (error.temporary) setTimeout(() => this.socket === socket && this.#sync(), error.retry_after_ms ?? 1000);
      else this.#lost(1006, error.message);
    }
  }

  #synced({ epoch, conversations }) {
    if (epoch !== this.epoch) {
      this.#epoch(epoch);
      this.#sync();
      return;
    }
    const arrived = grouped(this.arrived);
    this.attempts = 0;
    this.state = "online"; // told below, when the conversations are up to date
    for (const entry of conversations) {
      const conversation = this.conversation(entry.conversation);
      const events = (arrived.get(entry.conversation) ?? []).sort((a, b) => a.seq - b.seq);
      conversation.counted = Math.max(conversation.counted, entry.last_seq);
      conversation.cover(entry.from, entry.to, events.filter(({ seq }) => seq <= entry.to));
      conversation.counts(entry);
      if (conversation.position < entry.last_seq) this.#fill(conversation);
      arrived.set(entry.conversation, events.filter(({ seq }) => seq > entry.to));
      this.notify("conversation", entry.conversation);
    }
    for (const events of arrived.values()) for (const event of events) this.#numbered(event);
    for (const conversation of this.conversations.values()) {
      if (conversation.wanted && conversation.position === null) this.#fill(conversation);
    }
    this.#become("online");
    this.#watchLobby();
    this.#confirmSoon();
    this.#pump();
  }

  // The list is asked for once changes are being told: nobody who comes in between is missed.
  async #watchLobby() {
    await this.#request({ type: "watch", lobby: true, users: [] }).catch(() => null);
    if (this.state === "online") this.notify("roster");
  }

  // --- events ---------------------------------------------------------------------------------------

  #numbered(event) {
    if (this.state === "syncing") {
      this.arrived.push(event);
      return;
    }
    const conversation = this.conversation(event.conversation);
    if (event.type === "message") this.#forgetTyping(conversation, event.sender);
    if (!conversation.receive(event)) this.#fill(conversation);
    this.notify("conversation", conversation.name);
    this.#confirmSoon();
  }

  // Asks for what is missing until nothing waits above a hole. An answer's range moves the position
  // even when it holds nothing, so this ends.
  async #fill(conversation) {
    if (conversation.filling) return;
    conversation.filling = true;
    const socket = this.socket;
    for (let more = true; more; ) {
      const before = conversation.position;
      const range = before === null ? {} : { after: before, limit: 200 };
      try {
        const page = await this.#request({ type: "history", conversation: conversation.name, ...range });
        conversation.cover(page.from, page.to, page.events);
        this.notify("conversation", conversation.name);
        this.#confirmSoon();
        more = conversation.ahead.size > 0 || (before !== null && page.more);
        if (more && conversation.position === before) await pause(FILL_PAUSE_MS);
      } catch (error) {
        if (this.socket !== socket) return; // the next sync brings it; `filling` belongs to the next connection
        if (!error.temporary && error.type === "error") {
          conversation.ahead.clear();
          this.notify("problem", error.message);
          break;
        }
        await pause(error.retry_after_ms ?? 1000);
      }
      if (this.socket !== socket) return;
    }
    conversation.filling = false;
  }

  #ack({ id, message_id, conversation: name, seq, timestamp }) {
    const conversation = this.conversation(name);
    const entry = conversation.pending.find((each) => each.id === id);
    if (!entry) return;
    this.#settled(id);
    const recipient = peerOf(name, this.username) ?? undefined;
    const own = { type: "message", conversation: name, seq, id: message_id, sender: this.username, recipient };
    // Until it can be applied it stays visible among the pending.
    Object.assign(entry, { seq, stored: true });
    this.#numbered({ ...own, content: entry.content, timestamp, client_id: id, stored: true });
  }

  #presence({ users, more }) {
    for (const [name, state] of Object.entries(users)) {
      if (state === "online") this.online.add(name);
      else this.online.delete(name);
    }
    this.notify(more ? "roster" : "online");
  }

  #typingNotice({ conversation: name, username, on }) {
    const conversation = this.conversation(name);
    this.#forgetTyping(conversation, username);
    if (on && username !== this.username) {
      conversation.typing.set(username, setTimeout(() => {
        conversation.typing.delete(username);
        this.notify("conversation", name);
      }, TYPING_MS));
    }
    this.notify("conversation", name);
  }

  #forgetTyping(conversation, username) {
    clearTimeout(conversation.typing.get(username));
    conversation.typing.delete(username);
  }

  #error(event) {
    if (this.#answer(event)) return;
    const entry = this.inFlight.has(event.id) && this.#pending(event.id);
    if (!entry) {
      this.notify("problem", event.message);
      return;
    }
    clearTimeout(entry.timer);
    if (event.temporary) {
      entry.timer = setTimeout(() => this.#transmit(entry), event.retry_after_ms ?? 1000);
      return;
    }
    this.inFlight.delete(entry.id);
    entry.failed = event.message;
    this.storage.keep(entry);
    this.notify("conversation", entry.conversation);
    this.#pump();
  }

  // --- sending --------------------------------------------------------------------------------------

  #pending(id) {
    for (const { pending } of this.conversations.values()) {
      const entry = pending.find((each) => each.id === id);
      if (entry) return entry;
    }
    return undefined;
  }

  // One at a time in each conversation: unacknowledged sends may change places across a fault,
  // and what a person writes must stay in the order it was written.
  #pump() {
    if (this.state !== "online") return;
    for (const { pending } of this.conversations.values()) {
      const entry = pending.find(({ stored, failed, keeping }) => !stored && !failed && !keeping);
      if (!entry || this.inFlight.has(entry.id)) continue;
      if (this.inFlight.size >= this.limits.in_flight) return;
      this.inFlight.add(entry.id);
      this.#transmit(entry);
    }
  }

  #transmit(entry) {
    const recipient = peerOf(entry.conversation, this.username);
    const to = recipient === null ? {} : { recipient };
    this.#write({ type: "send", id: entry.id, content: entry.content, ...to });
    entry.timer = setTimeout(() => this.#transmit(entry), RESEND_MS);
  }

  // Acknowledged, or seen among the events of a conversation: either way it is stored.
  #settled(id) {
    clearTimeout(this.#pending(id)?.timer);
    this.inFlight.delete(id);
    this.storage.remove(id);
    queueMicrotask(() => this.#pump()); // the next in line, once the conversation has let go of this one
  }

  // --- confirming -----------------------------------------------------------------------------------

  #confirmSoon() {
    if (this.confirming === undefined && this.state === "online") {
      this.confirming = setTimeout(() => this.#confirm(), RECEIVED_MS);
    }
  }

  #confirm() {
    this.confirming = undefined;
    let left = CONFIRMED_AT_ONCE;
    for (const conversation of this.conversations.values()) {
      const { name, position, readSeq, receivedSent, readSent } = conversation;
      if (position === null || (position <= receivedSent && readSeq <= readSent)) continue;
      if (left <= 0) return this.#confirmSoon();
      if (position > receivedSent) {
        this.#write({ type: "received", conversation: name, seq: position });
        conversation.receivedSent = position;
        left -= 1;
      }
      if (readSeq > readSent) {
        this.#write({ type: "read", conversation: name, seq: readSeq });
        conversation.readSent = readSeq;
        left -= 1;
      }
    }
    return undefined;
  }
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function grouped(events) {
  const groups = new Map();
  for (const event of events) {
    if (!groups.has(event.conversation)) groups.set(event.conversation, []);
    groups.get(event.conversation).push(event);
  }
  return groups;
}
