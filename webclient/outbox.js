// Sends that no acknowledgement has answered yet. They survive a reload: one item of the storage for each,
// so that two windows of the same user never overwrite each other's list. If both send the same
// message, it has the same key, and the server stores it once.

const PREFIX = "hubbub.send:";

/** A key for a send, also where crypto.randomUUID is missing (a page served over plain http). */
export function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Outbox {
  /** `storage` is localStorage or anything with its interface. */
  constructor(storage, username) {
    this.storage = storage;
    this.prefix = `${PREFIX}${username}:`; // a username contains no colon
    this.last = 0;
  }

  /** All kept sends, oldest first: `{id, conversation, content, at, failed?}`, `at` in ms since 1970. */
  load() {
    const found = [];
    for (let i = 0; i < this.storage.length; i++) {
      const key = this.storage.key(i);
      if (!key.startsWith(this.prefix)) continue;
      try {
        const { conversation, content, at, failed } = JSON.parse(this.storage.getItem(key));
        found.push({ id: key.slice(this.prefix.length), conversation, content, at, failed });
      } catch {
        // Not ours, or cut off by a crash of the browser: nothing that could be sent.
      }
    }
    return found.sort((a, b) => a.at - b.at);
  }

  /** A new send, kept from now on. */
  add(conversation, content, now) {
    this.last = Math.max(now, this.last + 1); // two sends in one millisecond keep their order
    const entry = { id: newKey(), conversation, content, at: this.last };
    this.keep(entry);
    return entry;
  }

  keep({ id, conversation, content, at, failed }) {
    try {
      this.storage.setItem(this.prefix + id, JSON.stringify({ conversation, content, at, failed }));
    } catch {
      // Storage full or forbidden: the message still goes out, it only does not survive a reload.
    }
  }

  remove(id) {
    this.storage.removeItem(this.prefix + id);
  }
}
