// Signing in: as a guest, with an account, or by making one. What is possible the server says.

import { useEffect, useRef, useState } from "./vendor/hooks.js";
import { attempt, config, problem, session } from "./state.js";
import { html } from "./ui.js";

const USERNAME = /^[\p{L}\p{N}_.@+-]{1,64}$/u; // the server's rule

export function SignIn() {
  const { accounts, guests } = config.value;
  const ways = [guests && "guest", accounts !== "off" && "account", accounts === "open" && "register"].filter(Boolean);
  const [chosen, choose] = useState(null);
  const way = chosen ?? ways[0] ?? "guest";
  const [busy, setBusy] = useState(false);
  const form = useRef(null);
  useEffect(() => form.current?.elements.name.focus(), [way]);

  async function submit(event) {
    event.preventDefault();
    const { name, password } = event.currentTarget.elements;
    const username = name.value.trim().normalize("NFKC");
    if (!USERNAME.test(username)) {
      problem.value = "A name has 1 to 64 letters, digits or any of . _ - @ +";
      return;
    }
    setBusy(true);
    if (way === "guest") await attempt(() => session.enter({ kind: "guest", username }));
    else await attempt(() => session.login(way === "account" ? "/api/login" : "/api/register", username, password.value));
    setBusy(false);
  }

  const titles = { guest: "Join the chat", account: "Sign in", register: "Create account" };
  const others = ways.filter((each) => each !== way);
  const links = { guest: "Join as a guest", account: "Sign in with an account", register: "Create an account" };
  return html`
    <main id="sign-in" class="sign-in">
      <form id="sign-in-form" class="card" novalidate ref=${form} onSubmit=${submit}>
        <img src="/icon.svg" alt="" width="56" height="56" />
        <h1>Hubbub</h1>
        <p class="muted">${way === "guest" ? "Pick a name and start talking." : "Good to see you."}</p>
        <label for="name">Your name</label>
        <input id="name" name="name" type="text" maxlength="64" autocomplete="username" autocapitalize="none"
          spellcheck="false" required aria-describedby="sign-in-problem" />
        ${way !== "guest" && html`
          <label for="password">Password</label>
          <input id="password" name="password" type="password" maxlength="1024" required
            autocomplete=${way === "account" ? "current-password" : "new-password"} aria-describedby="sign-in-problem" />
        `}
        <p id="sign-in-problem" class="problem" role="alert">${problem.value}</p>
        <button class="primary" type="submit" disabled=${busy}>${titles[way]}</button>
        ${others.map((each) => html`
          <button key=${each} class="quiet" type="button" onClick=${() => choose(each)}>${links[each]}</button>
        `)}
      </form>
    </main>
  `;
}
