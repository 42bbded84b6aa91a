// Keeps the page's own files, so that it opens without a server. The network goes first: a page is never older than
// what the server has, and what comes is kept for the next time without one.

const CACHE = "hubbub-page";
const PATIENCE_MS = 3000; // a network that does not answer for so long counts as none
const SHELL = [
  "/", "/app.js", "/client.js", "/composer.js", "/conversation.js", "/dialogs.js", "/emoji.js", "/icon.svg",
  "/icons/192.png", "/icons/512.png", "/icons/maskable.png", "/manifest.webmanifest", "/markdown.js", "/memo.js",
  "/messages.js", "/notices.js", "/outbox.js", "/session.js", "/sidebar.js", "/sign-in.js", "/state.js", "/storage.js",
  "/style.css", "/tabs.js", "/talk.js", "/theme.js", "/ui.js", "/vendor/hooks.js", "/vendor/htm.js",
  "/vendor/marked.js", "/vendor/preact.js", "/vendor/signals-core.js", "/vendor/signals.js",
];
const PAGE = new Set(SHELL);

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(SHELL)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  if (request.method !== "GET" || origin !== location.origin || !PAGE.has(pathname)) return;
  event.respondWith(answer(request, pathname));
});

async function answer(request, pathname) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request, { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (response.ok) await cache.put(pathname, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(pathname);
    if (kept) return kept;
    throw error;
  }
}
