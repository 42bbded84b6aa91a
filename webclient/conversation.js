// What this device holds of one conversation, and the rule that makes delivery exactly-once and ordered:
// at or below the position: seen, drop; the next: apply; higher: a hole, to be filled before applying.
// Pure: no socket, no clock, no page.

export const LOBBY = "lobby";

// Live events kept above a hole. Past that they are dropped: filling the hole brings them anyway.
const AHEAD_MAX = 1000;

// The server sorts names by code point; JavaScript's < compares UTF-16 units, which differs above U+FFFF.
function inOrder(a, b) {
  const x = [...a];
  const y = [...b];
  for (let i = 0; i < Math.min(x.length, y.length); i++) {
    if (x[i] !== y[i]) return x[i].codePointAt(0) < y[i].codePointAt(0);
  }
  return x.length <= y.length;
}

/** The name of the direct conversation of two users, the same whoever asks. */
export function direct(a, b) {
  return inOrder(a, b) ? `direct:${a}:${b}` : `direct:${b}:${a}`;
}

/** The other user of a direct conversation (oneself in a conversation with oneself), null for the lobby. */
export function peerOf(conversation, me) {
  const [kind, a, b] = conversation.split(":");
  if (kind !== "direct") return null;
  return a === me ? b : a;
}

export class Conversation {
  /** `settled(key)` is told the key of each message of our own that turned up among the applied events. */
  constructor(name, me, settled) {
    this.name = name;
    this.me = me;
    this.peer = peerOf(name, me);
    this.settled = settled;
    this.pending = []; // sends without an acknowledgement that was applied, oldest first
    this.typing = new Map(); // username -> timer that forgets it
    this.wanted = false; // somebody looks at it: fetch the newest page although the server did not list it
    this.forget();
  }

  /** Drop all that came from the server: another epoch. */
  forget() {
    this.incarnation = (this.incarnation ?? 0) + 1; // after this the same seq is another message
    this.position = null; // highest seq applied; null: nothing is known yet
    this.base = 0; // `messages` is what exists in (base, position]
    this.older = false; // there may be something at or below base
    this.generation = (this.generation ?? 0) + 1; // of `base`: an older page asked for before a reset is void
    this.messages = [];
    this.ahead = new Map();
    this.unread = 0;
    this.counted = 0; // up to here the server's count of unread messages holds
    this.readSeq = 0;
    this.peerDelivered = 0;
    this.peerRead = 0;
    this.disconnected();
  }

  /** What is worth keeping on the device, with the newest `most` messages; null while nothing is known. */
  snapshot(most) {
    if (this.position === null) return null;
    const { name, position, unread, counted, readSeq, peerDelivered, peerRead } = this;
    const messages = this.messages.slice(-most);
    const cut = messages.length < this.messages.length;
    const base = cut ? this.messages.at(-most - 1).seq : this.base;
    const kept = { name, position, base, older: this.older || cut, messages };
    return { ...kept, unread, counted, readSeq, peerDelivered, peerRead };
  }

  /** A snapshot comes back. */
  restore(kept) {
    Object.assign(this, kept);
  }

  /** Read up to `seq` in another window. */
  seen(seq) {
    if (seq <= this.readSeq) return;
    this.readSeq = Math.min(seq, this.position ?? 0);
    this.readSent = this.readSeq;
    this.#countFrom(this.readSeq);
  }

  /** What was in the air is void; the next sync brings it again. */
  disconnected() {
    this.ahead.clear();
    this.filling = false;
    this.loading = false;
    this.readSent = 0;
    this.receivedSent = 0;
  }

  /** A live event. Returns false when there is a hole below it. */
  receive(event) {
    if (this.position === null && event.seq === 1) this.#reset(0);
    if (this.position !== null && event.seq <= this.position) {
      this.#own(event);
      return true;
    }
    if (this.position === null || event.seq > this.position + 1) {
      if (this.ahead.size < AHEAD_MAX) this.ahead.set(event.seq, event);
      return false;
    }
    this.#apply(event);
    this.#drain();
    return this.ahead.size === 0;
  }

  /** The answer to a sync or to a forward history: all that exists in (from, to], oldest first. */
  cover(from, to, events) {
    if (this.position === null || from > this.position) this.#reset(from);
    for (const event of events) if (event.seq > this.position) this.#apply(event);
    this.position = Math.max(this.position, to);
    this.#drain();
  }

  /** A page of older history: all that exists in (from, base]. */
  prepend(from, events, more) {
    const found = events.filter((event) => event.type === "message" && event.seq <= this.base);
    this.messages.unshift(...found);
    this.base = Math.min(this.base, from);
    this.older = more;
  }

  /** Keep the newest `count` messages; what is let go is fetched again on demand. */
  trim(count) {
    if (this.messages.length <= count) return;
    const gone = this.messages.splice(0, this.messages.length - count);
    this.base = gone.at(-1).seq;
    this.older = true;
    this.generation += 1;
  }

  /** The server's own count at the time of a sync. */
  counts(entry) {
    this.unread = entry.unread;
    this.counted = Math.max(this.position, entry.last_seq);
    this.receivedSent = entry.delivered_seq;
    this.readSent = entry.read_seq;
    if (this.readSeq > entry.read_seq) this.#countFrom(this.readSeq);
    else this.readSeq = entry.read_seq;
  }

  /** A person has seen all that is applied. Returns whether that is news. */
  markRead() {
    if (this.position === null || (this.readSeq >= this.position && this.unread === 0)) return false;
    this.readSeq = this.position;
    this.unread = 0;
    return true;
  }

  /** How far somebody has received and read; our own other devices count as ourselves. */
  receipt(event) {
    if (event.username !== this.me) {
      this.peerDelivered = Math.max(this.peerDelivered, event.delivered_seq);
      this.peerRead = Math.max(this.peerRead, event.read_seq);
    }
    if (event.username === this.me && event.read_seq > this.readSeq) {
      this.readSeq = event.read_seq;
      this.#countFrom(event.read_seq);
    }
  }

  /** "sending", "failed", "stored", "delivered" or "read": what a tick shows for a message of our own. */
  stateOf(message) {
    if (message.failed) return "failed";
    if (!message.ordinal && !message.stored) return "sending";
    if (this.peer === null || this.peer === this.me) return "stored";
    if (message.seq <= this.peerRead) return "read";
    return message.seq <= this.peerDelivered ? "delivered" : "stored";
  }

  #countFrom(seq) {
    if (seq >= this.position) this.unread = 0;
    else if (seq >= this.base) this.unread = this.messages.filter((m) => m.seq > seq && m.sender !== this.me).length;
  }

  #reset(from) {
    this.position = from;
    this.base = from;
    this.older = from > 0;
    this.generation += 1;
    this.messages = [];
  }

  #drain() {
    for (const seq of [...this.ahead.keys()].sort((a, b) => a - b)) {
      if (seq > this.position + 1) break;
      if (seq > this.position) this.#apply(this.ahead.get(seq));
      this.ahead.delete(seq);
    }
    // An acknowledged message at or below the position has been shown, or does not exist any more.
    this.pending = this.pending.filter((entry) => !(entry.seq <= this.position));
  }

  #apply(event) {
    this.position = event.seq;
    // Kinds of events we do not know take their number like the others and are not shown.
    if (event.type !== "message") return;
    this.messages.push(event);
    this.#own(event);
    if (event.sender === this.me) {
      this.readSeq = event.seq; // sending reads up to oneself
      this.unread = 0;
      return;
    }
    if (event.seq > this.counted) this.unread += 1;
    if (event.sender === this.peer) {
      this.peerDelivered = Math.max(this.peerDelivered, event.seq);
      this.peerRead = Math.max(this.peerRead, event.seq);
    }
  }

  #own(event) {
    // A key is unique for its sender only: somebody else's event never settles a send of ours.
    if (event.sender !== this.me || !event.client_id) return;
    this.settled(event.client_id);
    this.pending = this.pending.filter((entry) => entry.id !== event.client_id);
  }
}
