// What this device keeps for one user, in IndexedDB: sends without an acknowledgement, the newest messages of each
// conversation, and drafts. Where there is no IndexedDB everything works and nothing outlives the page.

const VERSION = 1;
const MESSAGES_MAX = 200; // of one conversation
const CONVERSATIONS_MAX = 200;
const WRITE_MS = 400; // conversations are written so long after their last change

function finished(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function open(name) {
  const request = indexedDB.open(name, VERSION);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("pending", { keyPath: "id" });
    request.result.createObjectStore("conversations", { keyPath: "name" });
    request.result.createObjectStore("values");
  };
  const database = await finished(request);
  // Another window signs out and deletes it, or brings a newer version: never stand in its way.
  database.onversionchange = () => database.close();
  return database;
}

export class Storage {
  /** What `username` has here. Never fails; `persistent` says whether anything outlives the page. */
  static async of(username) {
    const storage = new Storage(`hubbub:${username}`);
    try {
      storage.database = await open(storage.name);
      const parts = ["pending", "conversations"].map((part) => finished(storage.#store(part, "readonly").getAll()));
      [storage.pending, storage.conversations] = await Promise.all(parts);
      storage.epoch = (await finished(storage.#store("values", "readonly").get("epoch"))) ?? null;
      storage.drafts = (await finished(storage.#store("values", "readonly").get("drafts"))) ?? {};
    } catch {
      storage.database = null;
    }
    storage.pending.sort((a, b) => a.at - b.at);
    return storage;
  }

  constructor(name) {
    this.name = name;
    this.database = null;
    this.pending = [];
    this.conversations = [];
    this.epoch = null;
    this.drafts = {};
    this.changed = new Map();
  }

  get persistent() {
    return this.database !== null;
  }

  /** A send is kept before it goes out: resolves when it would survive a crash of the browser. */
  async keep({ id, conversation, content, at, failed }) {
    this.flush(); // what it answers to comes first, or a reload at once would show it alone
    await this.#write("pending", (store) => store.put({ id, conversation, content, at, failed }), true);
  }

  remove(id) {
    return this.#write("pending", (store) => store.delete(id));
  }

  /** Remember a conversation; `snapshot()` is taken when it is written, a moment later. */
  later(name, snapshot) {
    this.changed.set(name, snapshot);
    this.timer ??= setTimeout(() => this.flush(), WRITE_MS);
  }

  flush() {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (!this.changed.size) return undefined;
    const changed = [...this.changed].slice(0, CONVERSATIONS_MAX);
    this.changed.clear();
    return this.#write("conversations", (store) => {
      for (const [, snapshot] of changed) {
        const kept = snapshot(MESSAGES_MAX);
        if (kept) store.put(kept);
      }
    });
  }

  saveEpoch(epoch) {
    this.epoch = epoch;
    return this.#write("values", (store) => store.put(epoch, "epoch"));
  }

  saveDraft(name, text) {
    if (text) this.drafts[name] = text;
    else delete this.drafts[name];
    return this.#write("values", (store) => store.put({ ...this.drafts }, "drafts"));
  }

  /** Another database on the server: nothing that came from it holds. */
  forgetConversations() {
    this.changed.clear();
    return this.#write("conversations", (store) => store.clear());
  }

  /** Delete all of it. */
  async wipe() {
    clearTimeout(this.timer);
    this.changed.clear();
    this.database?.close();
    this.database = null;
    if (globalThis.indexedDB) await finished(indexedDB.deleteDatabase(this.name)).catch(() => null);
  }

  #store(name, mode) {
    return this.database.transaction(name, mode, { durability: "relaxed" }).objectStore(name);
  }

  // Storage that is full or forbidden must not stop the chat: what it would have kept is lost at the next reload.
  async #write(name, work, strict = false) {
    if (!this.database) return;
    try {
      const transaction = this.database.transaction(name, "readwrite", { durability: strict ? "strict" : "relaxed" });
      work(transaction.objectStore(name));
      await new Promise((resolve, reject) => {
        transaction.oncomplete = resolve;
        transaction.onabort = transaction.onerror = () => reject(transaction.error);
      });
    } catch {
      // see above
    }
  }
}
