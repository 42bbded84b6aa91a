// The left pane: conversations, and who is here.

import { useState } from "./vendor/hooks.js";
import { LOBBY } from "./conversation.js";
import { client, current, dialog, frame, leave, listed, select, selectPerson } from "./state.js";
import { Avatar, brief, html, Icon } from "./ui.js";

const ONLINE_SHOWN = 200;

export function Sidebar() {
  void frame.value;
  const [wanted, setWanted] = useState("");
  const me = client.username;
  const fits = (name) => name.toLowerCase().includes(wanted.trim().toLowerCase());
  const names = [...client.online].filter(fits);
  names.sort((a, b) => (b === me) - (a === me) || a.localeCompare(b));
  const more = names.length - ONLINE_SHOWN;

  function submit(event) {
    event.preventDefault();
    const name = wanted.trim().normalize("NFKC");
    if (!name) return;
    setWanted("");
    selectPerson(name);
  }

  return html`
    <aside class="side" aria-label="Conversations and people">
      <header class="bar">
        <${Avatar} name=${me} />
        <h1 id="me" class="bar-title">${me}</h1>
        <${Tool} icon="search" label="Search messages" onClick=${() => (dialog.value = "search")} />
        <${Tool} icon="settings" label="Settings" onClick=${() => (dialog.value = "settings")} />
        <${Tool} icon="leave" label="Sign out" onClick=${() => leave()} />
      </header>
      <form class="find" role="search" onSubmit=${submit}>
        <label class="visually-hidden" for="find">Find or message somebody by name</label>
        <input id="find" type="search" maxlength="64" placeholder="Find or message somebody" autocomplete="off"
          autocapitalize="none" spellcheck="false" value=${wanted} onInput=${(event) => setWanted(event.target.value)} />
      </form>
      <div class="lists">
        <nav aria-labelledby="conversations-title">
          <h2 id="conversations-title">Conversations</h2>
          <ul id="conversations" class="list">
            ${listed()
              .filter(({ peer }) => fits(peer ?? "lobby"))
              .map((one) => html`<${Row} key=${one.name} conversation=${one} />`)}
          </ul>
        </nav>
        <section aria-labelledby="online-title">
          <h2 id="online-title">Online <span id="online-count">${client.online.size}</span></h2>
          <ul id="online" class="list">
            ${names.slice(0, ONLINE_SHOWN).map((name) => html`
              <li key=${name}>
                <button class="row" type="button" data-user=${name} onClick=${() => selectPerson(name)}>
                  <${Avatar} name=${name} here small />
                  <bdi class="who">${name}</bdi>
                  ${name === me && html`<span class="muted">you</span>`}
                </button>
              </li>
            `)}
          </ul>
          ${more > 0 && html`<p class="muted note">and ${more} more</p>`}
          ${!names.length && wanted && html`
            <p class="muted note">Nobody by that name is here. Press Enter to write to them.</p>
          `}
        </section>
      </div>
    </aside>
  `;
}

function Tool({ icon, label, onClick }) {
  return html`
    <button class="tool" type="button" aria-label=${label} title=${label} onClick=${onClick}><${Icon} name=${icon} /></button>
  `;
}

function Row({ conversation }) {
  void frame.value;
  const { name, peer, unread, pending, messages } = conversation;
  const last = pending.at(-1) ?? messages.at(-1);
  const sender = last && (last.sender ?? client.username);
  const prefix = sender === client.username ? "You: " : peer === null && last ? `${sender}: ` : "";
  const empty = name === LOBBY ? "Everybody is here" : "No messages yet";
  const here = peer !== null && client.online.has(peer);
  const when = last && new Date(last.timestamp ?? last.at);
  return html`
    <li>
      <button class="row" type="button" data-conversation=${name} onClick=${() => select(name)}
        aria-current=${name === current.value ? "true" : undefined}>
        <${Avatar} name=${peer} here=${here} />
        <span class="lines">
          <span class="first">
            <bdi class="who">${peer ?? "Lobby"}</bdi>
            ${here && html`<span class="visually-hidden">online</span>`}
            ${when && html`<time class="when">${brief(when)}</time>`}
          </span>
          <span class="first">
            <span class="preview">${last ? prefix + last.content.slice(0, 120) : empty}</span>
            <span class="badge" hidden=${!unread} role="img" aria-label="${unread} unread">${unread > 99 ? "99+" : unread}</span>
          </span>
        </span>
      </button>
    </li>
  `;
}
