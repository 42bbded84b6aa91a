// Keys for sends, and their order.

let last = 0;

/** A key for a send, also where crypto.randomUUID is missing (a page served over plain http). */
export function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A send that waits: two in one millisecond keep their order. */
export function newEntry(conversation, content, now) {
  last = Math.max(now, last + 1);
  return { id: newKey(), conversation, content, at: last };
}
