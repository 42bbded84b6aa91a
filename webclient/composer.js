// The field to write in: Enter sends, Shift+Enter starts a line; drafts, emoji, :shortcodes:.

import { useEffect, useLayoutEffect, useRef, useState } from "./vendor/hooks.js";
import { completions, findEmoji } from "./emoji.js";
import { complaint, draft, saveDraft, send, typed } from "./state.js";
import { html, Icon } from "./ui.js";

const LINES_MAX = 8;
const WORD = /:([a-z0-9_]{2,20})$/;

export function Composer() {
  const field = useRef(null);
  const [text, setText] = useState(draft);
  const [picking, setPicking] = useState(false);
  const [chosen, setChosen] = useState(0);
  const start = field.current ? WORD.exec(text.slice(0, field.current.selectionStart)) : null;
  const offers = start ? completions(start[1]) : [];

  useEffect(() => {
    if (matchMedia("(pointer: fine)").matches) field.current.focus();
  }, []);

  useLayoutEffect(() => {
    const { style } = field.current;
    const line = parseFloat(getComputedStyle(field.current).lineHeight);
    field.current.rows = 1;
    field.current.rows = Math.min(LINES_MAX, Math.max(1, Math.round((field.current.scrollHeight - 16) / line)));
    void style;
  }, [text]);

  function change(next) {
    setText(next);
    setChosen(0);
    saveDraft(next);
    typed(next.trim());
  }

  function submit(event) {
    event?.preventDefault();
    const content = text.trim();
    if (content && send(content)) {
      setText("");
      field.current.focus();
    }
  }

  // In the place of the selection, or of the word that is being completed.
  function insert(emoji, from = field.current.selectionStart) {
    const { selectionEnd } = field.current;
    change(text.slice(0, from) + emoji + text.slice(selectionEnd));
    const at = from + emoji.length;
    requestAnimationFrame(() => {
      field.current.focus();
      field.current.setSelectionRange(at, at);
    });
  }

  function complete(emoji) {
    insert(`${emoji} `, field.current.selectionStart - start[0].length);
  }

  function keyed(event) {
    if (event.isComposing) return;
    if (offers.length && ["Tab", "Enter"].includes(event.key)) complete(offers[chosen][0]);
    else if (offers.length && event.key === "ArrowDown") setChosen((chosen + 1) % offers.length);
    else if (offers.length && event.key === "ArrowUp") setChosen((chosen + offers.length - 1) % offers.length);
    else if (event.key === "Enter" && !event.shiftKey) submit();
    else return;
    event.preventDefault();
  }

  return html`
    <form id="composer" class="composer" onSubmit=${submit}>
      ${picking && html`<${Picker} pick=${(emoji) => { setPicking(false); insert(emoji); }} close=${() => setPicking(false)} />`}
      ${offers.length > 0 && html`
        <ul class="offers" role="listbox" aria-label="Emoji">
          ${offers.map(([emoji, word], i) => html`
            <li key=${word} role="option" aria-selected=${i === chosen} onMouseDown=${(event) => { event.preventDefault(); complete(emoji); }}>
              ${emoji} <span>:${word}:</span>
            </li>
          `)}
        </ul>
      `}
      <button class="tool" type="button" aria-label="Emoji" title="Emoji" aria-expanded=${picking}
        onClick=${() => setPicking(!picking)}><${Icon} name="smile" /></button>
      <label class="visually-hidden" for="text">Message</label>
      <textarea id="text" rows="1" placeholder="Write a message" autocomplete="off" aria-describedby="text-problem"
        dir="auto" ref=${field} value=${text} onInput=${(event) => change(event.target.value)} onKeyDown=${keyed}></textarea>
      <button class="primary send" type="submit" aria-label="Send"><${Icon} name="send" /></button>
      <p id="text-problem" class="problem" role="alert">${complaint.value}</p>
    </form>
  `;
}

function Picker({ pick, close }) {
  const [query, setQuery] = useState("");
  const box = useRef(null);
  useEffect(() => box.current.querySelector("input").focus(), []);
  function keyed(event) {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    close();
  }
  return html`
    <div class="picker" role="dialog" aria-label="Choose an emoji" ref=${box} onKeyDown=${keyed}>
      <input type="search" aria-label="Find an emoji" placeholder="Find an emoji" value=${query}
        onInput=${(event) => setQuery(event.target.value)}
        onKeyDown=${(event) => event.key === "Enter" && event.preventDefault()} />
      <div class="emoji">
        ${findEmoji(query).map(([name, entries]) => html`
          <section key=${name} aria-label=${name}>
            <h3>${name}</h3>
            ${entries.map(([emoji, word]) => html`
              <button key=${word} type="button" aria-label=${word.replaceAll("_", " ")} title=":${word}:" onClick=${() => pick(emoji)}>${emoji}</button>
            `)}
          </section>
        `)}
      </div>
    </div>
  `;
}
