// The page's composition: what is on the screen, the keys that work everywhere, and the service worker.

import { render } from "./vendor/preact.js";
import { Dialogs } from "./dialogs.js";
import { Sidebar } from "./sidebar.js";
import { SignIn } from "./sign-in.js";
import { applyTheme } from "./theme.js";
import { client, dialog, frame, pane, screen, selectNext, start } from "./state.js";
import { Talk } from "./talk.js";
import { html } from "./ui.js";

function App() {
  if (screen.value === "sign-in") return html`<${SignIn} />`;
  if (screen.value !== "chat") return null;
  void frame.value;
  return html`
    <a class="skip" href="#text">Skip to the message field</a>
    <div id="chat" class="chat" data-screen=${pane.value} data-away=${client.state === "online" ? undefined : ""}>
      <${Sidebar} />
      <${Talk} />
    </div>
    <${Dialogs} />
  `;
}

function writing(target) {
  return target.matches?.("input, textarea, select");
}

addEventListener("keydown", (event) => {
  if (screen.value !== "chat") return;
  const command = event.ctrlKey || event.metaKey;
  if (command && !event.altKey && event.key.toLowerCase() === "k") dialog.value = "find";
  else if (command && event.shiftKey && event.key.toLowerCase() === "f") dialog.value = "search";
  else if (event.altKey && event.key === "ArrowDown") selectNext(1);
  else if (event.altKey && event.key === "ArrowUp") selectNext(-1);
  else if (event.key === "?" && !writing(event.target) && !dialog.value) dialog.value = "keys";
  else return;
  event.preventDefault();
});

applyTheme();
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
start();
registerWorker();

// Not over plain http: then the page needs the server to open.
function registerWorker() {
  if (!navigator.serviceWorker) return;
  const address = "/sw.js";
  const policy = globalThis.trustedTypes?.createPolicy("hubbub-worker", { createScriptURL: () => address });
  navigator.serviceWorker.register(policy ? policy.createScriptURL("") : address).catch(() => null);
}
