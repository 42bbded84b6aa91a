// The administrators' page: what every process does, asked once a second, with five minutes of the past.

import { render } from "./vendor/preact.js";
import { useEffect, useState } from "./vendor/hooks.js";
import { Session } from "./session.js";
import { applyTheme } from "./theme.js";
import { html } from "./ui.js";

const EVERY_MS = 1000;
const KEPT = 300;

const session = new Session({ renewed: () => null, ended: () => location.reload() });

const sum = (field) => (overview) => overview.processes.reduce((total, one) => total + (one[field] ?? 0), 0);
const store = (field) => (overview) => overview.processes.find(({ name }) => name.startsWith("store"))?.[field] ?? 0;
const CHARTS = [
  ["Connections", sum("connections"), (n) => n.toFixed(0)],
  ["Messages committed a second", store("messages"), (n) => n.toFixed(0)],
  ["Deliveries a second", sum("deliveries"), (n) => n.toFixed(0)],
  ["Commit, p50 (ms)", store("commit_p50_ms"), (n) => n.toFixed(1)],
  ["Commit, p99 (ms)", store("commit_p99_ms"), (n) => n.toFixed(1)],
  ["Waiting in the store", store("queue"), (n) => n.toFixed(0)],
  ["Unanswered requests", sum("pending"), (n) => n.toFixed(0)],
  ["Recoveries", sum("recoveries"), (n) => n.toFixed(0)],
  ["CPU (cores)", sum("cpu"), (n) => n.toFixed(2)],
];

function Admin() {
  const [past, setPast] = useState([]);
  const [problem, setProblem] = useState("");
  const [signedIn, setSignedIn] = useState(Boolean(session.who));

  useEffect(() => {
    if (!signedIn) return undefined;
    let timer;
    const look = async () => {
      try {
        const overview = await session.ask("/api/admin/overview");
        setPast((before) => [...before, overview].slice(-KEPT));
        setProblem("");
      } catch (error) {
        setProblem(error.status ? error.message : "The server does not answer. Trying again…");
        if (error.status === 401 && session.who?.kind === "account") await session.renew().catch(() => null);
      }
      timer = setTimeout(look, EVERY_MS);
    };
    session.watch();
    look();
    return () => clearTimeout(timer);
  }, [signedIn]);

  if (!signedIn) return html`<${SignIn} done=${() => setSignedIn(true)} />`;
  const now = past.at(-1);
  return html`
    <main class="glance">
      <h1>Hubbub at a glance</h1>
      <p class="problem" role="alert">${problem}</p>
      ${now && html`
        <div class="cards">
          ${CHARTS.map(([title, pick, format]) => html`
            <${Chart} key=${title} title=${title} values=${past.map(pick)} format=${format} />
          `)}
        </div>
        <${Processes} processes=${now.processes} />
        <${Talkers} talkers=${now.top_talkers} />
      `}
      <p><a href="/">Back to the chat</a></p>
    </main>
  `;
}

function SignIn({ done }) {
  const [problem, setProblem] = useState("");
  async function submit(event) {
    event.preventDefault();
    const { name, password } = event.currentTarget.elements;
    try {
      await session.login("/api/login", name.value.trim(), password.value);
      done();
    } catch (error) {
      setProblem(error.status ? error.message : "The server does not answer.");
    }
  }
  return html`
    <main class="sign-in">
      <form class="card" onSubmit=${submit}>
        <h1>Administration</h1>
        <label for="name">Your name</label>
        <input id="name" name="name" autocomplete="username" autocapitalize="none" required />
        <label for="password">Password</label>
        <input id="password" name="password" type="password" autocomplete="current-password" required />
        <p class="problem" role="alert">${problem}</p>
        <button class="primary" type="submit">Sign in</button>
      </form>
    </main>
  `;
}

function Chart({ title, values, format }) {
  const most = Math.max(...values, 1e-9);
  const points = values.map((value, i) => `${KEPT - values.length + i},${40 - (value / most) * 36}`).join(" ");
  return html`
    <figure class="chart">
      <figcaption>${title}</figcaption>
      <output>${format(values.at(-1))}</output>
      <svg viewBox="0 0 ${KEPT} 42" preserveAspectRatio="none" role="img"
        aria-label="The last ${values.length} seconds, at most ${format(most)}">
        <polyline points=${points} vector-effect="non-scaling-stroke" />
      </svg>
    </figure>
  `;
}

function Processes({ processes }) {
  const columns = [
    ["Process", (one) => one.name],
    ["Up", (one) => `${Math.round(one.up_seconds / 60)} min`],
    ["CPU", (one) => `${Math.round(one.cpu * 100)} %`],
    ["Memory", (one) => `${Math.round(one.rss_bytes / 2 ** 20)} MiB`],
    ["Files", (one) => one.fds],
    ["Loop late", (one) => `${one.loop_lag_ms.toFixed(1)} ms`],
    ["Connections", (one) => (one.name.startsWith("shard") ? one.connections : "")],
  ];
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label="Processes">
      <table>
        <caption>Processes</caption>
        <thead><tr>${columns.map(([title]) => html`<th key=${title} scope="col">${title}</th>`)}</tr></thead>
        <tbody>
          ${processes.map((one) => html`
            <tr key=${one.name} data-process=${one.name}>${columns.map(([title, show]) => html`<td key=${title}>${show(one)}</td>`)}</tr>
          `)}
        </tbody>
      </table>
    </div>
  `;
}

function Talkers({ talkers }) {
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label="Who says most">
      <table id="talkers">
        <caption>Who says most, in the last minutes</caption>
        <tbody>
          ${talkers.map(({ username, messages }) => html`<tr key=${username}><td>${username}</td><td>${messages}</td></tr>`)}
        </tbody>
      </table>
    </div>
  `;
}

applyTheme();
render(html`<${Admin} />`, document.getElementById("app"));
