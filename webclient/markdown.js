// A safe subset of Markdown. marked's lexer finds the structure; what is in the list below becomes an element
// by way of Preact's nodes, everything else stays the text it was. No HTML string is ever made.

import { Lexer } from "./vendor/marked.js";
import { isJumbo, withShortcodes } from "./emoji.js";
import { html } from "./ui.js";

const OPTIONS = { gfm: true, breaks: true };
const SAFE = /^(https?:|mailto:)/i;

/** The text of a message as Preact nodes. */
export function Markdown({ text }) {
  const shown = withShortcodes(text);
  if (isJumbo(shown)) return html`<div class="text jumbo" dir="auto">${shown}</div>`;
  return html`<div class="text" dir="auto">${blocks(lex(shown), shown)}</div>`;
}

function lex(text) {
  try {
    return Lexer.lex(text, OPTIONS);
  } catch {
    return [{ type: "text", raw: text }]; // a fault of the lexer must not hide what somebody wrote
  }
}

function blocks(tokens) {
  return tokens.map((token) => {
    switch (token.type) {
      case "space":
        return null;
      case "paragraph":
        return html`<p>${inlines(token.tokens)}</p>`;
      case "text":
        return token.tokens ? html`<p>${inlines(token.tokens)}</p>` : html`<p>${token.raw}</p>`;
      case "code":
        return html`<pre tabindex="0"><code>${token.text}</code></pre>`;
      case "blockquote":
        return html`<blockquote>${blocks(token.tokens)}</blockquote>`;
      case "list": {
        const items = token.items.map((item) => html`<li>${blocks(item.tokens)}</li>`);
        return token.ordered ? html`<ol start=${token.start}>${items}</ol>` : html`<ul>${items}</ul>`;
      }
      default:
        return html`<p>${token.raw.replace(/\n+$/, "")}</p>`;
    }
  });
}

function inlines(tokens = []) {
  return tokens.map((token) => {
    switch (token.type) {
      case "strong":
        return html`<strong>${inlines(token.tokens)}</strong>`;
      case "em":
        return html`<em>${inlines(token.tokens)}</em>`;
      case "del":
        return html`<del>${inlines(token.tokens)}</del>`;
      case "codespan":
        return html`<code>${token.text}</code>`;
      case "br":
        return "\n";
      case "link":
        return link(token);
      case "escape":
        return token.raw.slice(1);
      default:
        return token.raw;
    }
  });
}

// A link shows where it goes: its own text may say anything.
function link(token) {
  let url;
  try {
    url = new URL(token.href);
  } catch {
    return token.raw;
  }
  if (!SAFE.test(url.protocol)) return token.raw;
  const rel = "noopener noreferrer nofollow ugc";
  return html`<a href=${url.href} rel=${rel} target="_blank" title=${url.href}>${token.text}</a>`;
}
