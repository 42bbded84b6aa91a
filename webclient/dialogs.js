// What opens above the chat: find somebody, search messages, settings, the keys.

import { useEffect, useRef, useState } from "./vendor/hooks.js";
import { notifying, switchNotifying } from "./notices.js";
import { client, dialog, listed, select, selectPerson, session, show } from "./state.js";
import { choose, theme } from "./theme.js";
import { Avatar, brief, html, Icon } from "./ui.js";

const SEARCH_MS = 200; // after the last key
const RETRY_MS = 2000; // a search that got no answer is repeated so much later

export function Dialogs() {
  const views = { find: Find, search: Search, settings: Settings, keys: Keys };
  const View = views[dialog.value];
  return View ? html`<${View} key=${dialog.value} />` : null;
}

function Dialog({ title, children }) {
  const node = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    node.current.showModal();
    node.current.querySelector("input:checked, input")?.focus();
    return () => before?.focus?.();
  }, []);
  const close = () => (dialog.value = null);
  return html`
    <dialog ref=${node} class="dialog" aria-labelledby="dialog-title" onClose=${close}
      onClick=${(event) => event.target === node.current && close()}>
      <header>
        <h2 id="dialog-title">${title}</h2>
        <button class="tool" type="button" aria-label="Close" onClick=${close}><${Icon} name="close" /></button>
      </header>
      ${children}
    </dialog>
  `;
}

/** What `look(query)` found for the last query that stood still for a moment: {busy, problem, found}. */
function useSearch(query, look) {
  const [state, setState] = useState({ found: [] });
  useEffect(() => {
    if (!query.trim()) {
      setState({ found: [] });
      return undefined;
    }
    let current = true;
    let timer = setTimeout(ask, SEARCH_MS);
    async function ask() {
      try {
        const found = await look(query.trim());
        if (current) setState({ found, done: true });
      } catch (error) {
        if (!current) return;
        setState({ found: [], problem: error.status ? error.message : "The server does not answer." });
        // A server that is away or busy may be back in a moment; a query that it refuses stays refused.
        if (!error.status || error.retryAfter) timer = setTimeout(ask, error.retryAfter ?? RETRY_MS);
      }
    }
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [query]);
  return state;
}

// A list under a field (ARIA's combobox): arrows choose, Enter takes.
function Chooser({ id, label, query, setQuery, items, take, note }) {
  const [at, setAt] = useState(0);
  const chosen = Math.min(at, items.length - 1);
  function keyed(event) {
    if (event.key === "ArrowDown") setAt((chosen + 1) % Math.max(1, items.length));
    else if (event.key === "ArrowUp") setAt((chosen + items.length - 1) % Math.max(1, items.length));
    else if (event.key === "Enter" && items[chosen]) take(items[chosen]);
    else if (event.key === "Escape") dialog.value = null; // a search field would only empty itself
    else return;
    event.preventDefault();
  }
  return html`
    <input type="search" role="combobox" aria-expanded="true" aria-controls=${`${id}-list`} aria-label=${label}
      aria-activedescendant=${items.length ? `${id}-${chosen}` : undefined} placeholder=${label} maxlength="200"
      autocomplete="off" value=${query} onInput=${(event) => { setAt(0); setQuery(event.target.value); }}
      onKeyDown=${keyed} />
    <ul id=${`${id}-list`} class="results" role="listbox" aria-label="Found">
      ${items.map((item, i) => html`
        <li id=${`${id}-${i}`} key=${item.key} role="option" class="row" aria-selected=${i === chosen} onClick=${() => take(item)}>
          ${item.view}
        </li>
      `)}
    </ul>
    <p class="muted note" role="status">${note}</p>
  `;
}

function Find() {
  const [query, setQuery] = useState("");
  const { found, problem, done } = useSearch(query, async (q) => (await session.ask("/api/users", { q })).users);
  const wanted = query.trim().toLowerCase();
  const held = listed().filter(({ peer }) => (peer ?? "lobby").toLowerCase().includes(wanted));
  const names = new Set(held.map(({ peer }) => peer));
  const items = [
    ...held.map(({ name, peer }) => ({
      key: name,
      go: () => select(name),
      view: html`<${Avatar} name=${peer} here=${client.online.has(peer)} small /><bdi class="who">${peer ?? "Lobby"}</bdi>`,
    })),
    ...found.filter(({ username }) => !names.has(username)).map(({ username, online }) => ({
      key: `user ${username}`,
      go: () => selectPerson(username),
      view: html`<${Avatar} name=${username} here=${online} small /><bdi class="who">${username}</bdi>
        <span class="muted">${online ? "online" : ""}</span>`,
    })),
  ];
  const take = ({ go }) => {
    dialog.value = null;
    go();
  };
  const note = problem ?? (done && !items.length ? "Nobody by that name." : "");
  return html`
    <${Dialog} title="Find a conversation or a person">
      <${Chooser} id="find-person" label="Name" query=${query} setQuery=${setQuery} items=${items} take=${take} note=${note} />
    <//>
  `;
}

function Search() {
  const [query, setQuery] = useState("");
  const { found, problem, done } = useSearch(query, async (q) => (await session.ask("/api/search", { q })).messages);
  const items = found.map((message) => ({
    key: String(message.id),
    message,
    view: html`
      <${Avatar} name=${message.sender} small />
      <span class="lines">
        <span class="first">
          <bdi class="who">${message.sender}</bdi>
          <time class="when">${brief(new Date(message.timestamp))}</time>
        </span>
        <span class="preview">${message.content.slice(0, 200)}</span>
      </span>
    `,
  }));
  const note = problem ?? (done && !items.length ? "Nothing was found." : "All words; \"a phrase\"; -without");
  return html`
    <${Dialog} title="Search messages">
      <${Chooser} id="find-message" label="Words" query=${query} setQuery=${setQuery} items=${items}
        take=${({ message }) => show(message)} note=${note} />
    <//>
  `;
}

function Settings() {
  const { who } = session;
  const labels = { system: "As the system", light: "Light", dark: "Dark" };
  const notes = {
    on: "You are notified of messages while you look elsewhere.",
    off: "",
    denied: "This browser forbids them for this site; its settings can allow them.",
    missing: "This browser has none.",
  };
  return html`
    <${Dialog} title="Settings">
      <fieldset>
        <legend>Appearance</legend>
        ${Object.entries(labels).map(([value, label]) => html`
          <label key=${value} class="choice">
            <input type="radio" name="theme" value=${value} checked=${theme.value === value} onChange=${() => choose(value)} />
            ${label}
          </label>
        `)}
      </fieldset>
      <fieldset>
        <legend>Notifications</legend>
        <label class="choice">
          <input type="checkbox" checked=${notifying.value === "on"} disabled=${["denied", "missing"].includes(notifying.value)}
            onChange=${switchNotifying} />
          Show notifications on the desktop
        </label>
        <p class="muted note">${notes[notifying.value]}</p>
      </fieldset>
      ${who?.kind === "account" && html`<${PasswordForm} />`}
      <button class="quiet" type="button" onClick=${() => (dialog.value = "keys")}>Keyboard</button>
      ${who?.role === "admin" && html`<a class="quiet" href="/admin.html">Administration</a>`}
    <//>
  `;
}

function PasswordForm() {
  const [said, say] = useState(["", ""]);
  async function submit(event) {
    event.preventDefault();
    const form = event.currentTarget;
    try {
      await session.changePassword(form.elements.password.value, form.elements.next.value);
      form.reset();
      say(["muted", "The password is changed. Other devices have to sign in again."]);
    } catch (error) {
      say(["problem", error.status ? error.message : "The server does not answer."]);
    }
  }
  return html`
    <form onSubmit=${submit}>
      <fieldset>
        <legend>Password</legend>
        <input type="hidden" name="username" autocomplete="username" value=${session.username} />
        <label for="password">Present password</label>
        <input id="password" name="password" type="password" autocomplete="current-password" required />
        <label for="next">New password</label>
        <input id="next" name="next" type="password" autocomplete="new-password" minlength="8" required />
        <p class=${said[0]} role="status">${said[1]}</p>
        <button class="primary" type="submit">Change password</button>
      </fieldset>
    </form>
  `;
}

function Keys() {
  const keys = [
    ["Ctrl K", "Find a conversation or a person"],
    ["Ctrl Shift F", "Search messages"],
    ["Alt ↑ / Alt ↓", "The conversation above or below"],
    ["Enter", "Send"],
    ["Shift Enter", "A new line"],
    ["Esc", "Close what is open"],
    ["?", "This list"],
  ];
  return html`
    <${Dialog} title="Keyboard">
      <dl class="keys">${keys.map(([key, what]) => html`<div key=${key}><dt><kbd>${key}</kbd></dt><dd>${what}</dd></div>`)}</dl>
    <//>
  `;
}
