// The administrators' page: what every process does, asked once a second, with five minutes of the past.

import { render } from "./vendor/preact.js";
import { useEffect, useState } from "./vendor/hooks.js";
import { Session } from "./session.js";
import { applyTheme } from "./theme.js";
import { html } from "./ui.js";

const EVERY_MS = 1000;
const KEPT = 300; // seconds
const LEAST = 60; // seconds that a chart is wide at first
const GAP = 5; // seconds without an answer, after which a line begins anew
const HEIGHT = 48;

const session = new Session({ renewed: () => null, ended: () => location.reload() });

const total = (processes, field) => processes.reduce((sum, one) => sum + (one[field] ?? 0), 0);
const most = (processes, field) => processes.reduce((top, one) => Math.max(top, one[field] ?? 0), 0);
const shards = ({ processes }) => processes.filter(({ name }) => name.startsWith("shard"));
const all = (field, unit) => ({ lines: ({ processes }) => ({ all: total(processes, field) }), ...unit });

const COUNT = { show: number(0) };
const MILLISECONDS = { show: (n) => `${number(n < 10 ? 1 : 0)(n)} ms` };
// Each chart's lines by name, the newest overview given; `head` is the large figure: the lines' sum unless told.
const CHARTS = [
  ["Connections", { ...COUNT, lines: (now) => named(shards(now), "connections") }],
  ["Messages committed a second", all("messages", COUNT)],
  ["Deliveries a second", { ...COUNT, lines: (now) => named(shards(now), "deliveries") }],
  ["Commit, the slowest hundredth", {
    ...MILLISECONDS,
    lines: ({ processes }) => ({ p50: most(processes, "commit_p50_ms"), p99: most(processes, "commit_p99_ms") }),
    head: ({ p99 }) => p99,
  }],
  ["Waiting in the store", all("queue", COUNT)],
  ["Unanswered requests", { ...COUNT, lines: (now) => named(shards(now), "pending") }],
  ["Bytes unsent to clients", { ...all("unsent_bytes"), show: bytes }],
  ["Recoveries since the start", { ...COUNT, lines: (now) => named(shards(now), "recoveries") }],
  ["CPU, cores", { lines: ({ processes }) => named(processes, "cpu"), show: number(2) }],
];

function named(processes, field) {
  return Object.fromEntries(processes.map((one) => [one.name, one[field]]));
}

function number(digits) {
  const form = new Intl.NumberFormat("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
  return (n) => form.format(n);
}

function bytes(n) {
  const power = n < 2 ** 20 ? 10 : 20;
  return n < 1024 ? `${n} B` : `${number(1)(n / 2 ** power)} ${power === 10 ? "KiB" : "MiB"}`;
}

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${number(1)(seconds / 3600)} h`;
}

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
        setPast((before) => [...before, overview].filter(({ time }) => time > overview.time - KEPT));
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
          ${CHARTS.map(([title, chart]) => html`<${Chart} key=${title} title=${title} past=${past} ...${chart} />`)}
        </div>
        <${Processes} processes=${now.processes} />
        <${Talkers} talkers=${now.top_talkers} />
      `}
      <p class="back"><a href="/">Back to the chat</a></p>
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

function Chart({ title, past, lines, show, head = (now) => total(Object.values(now).map((value) => ({ value })), "value") }) {
  const values = past.map(lines);
  const names = Object.keys(values.at(-1));
  const top = Math.max(...values.flatMap((one) => Object.values(one)), 1e-9);
  const end = past.at(-1).time;
  const width = Math.min(KEPT, Math.max(LEAST, end - past[0].time));
  const path = (name) => past.map(({ time }, i) => {
    const value = values[i][name] ?? 0;
    const begins = i === 0 || time - past[i - 1].time > GAP;
    return `${begins ? "M" : "L"}${(width - end + time).toFixed(1)} ${(HEIGHT - (value / top) * (HEIGHT - 2) - 1).toFixed(1)}`;
  }).join("");
  const newest = show(head(values.at(-1)));
  return html`
    <figure class="chart" data-chart=${title}>
      <figcaption>${title}</figcaption>
      <div class="figures"><output>${newest}</output><span class="most">at most ${show(top < 1e-6 ? 0 : top)}</span></div>
      <svg viewBox="0 0 ${width} ${HEIGHT}" preserveAspectRatio="none" role="img"
        aria-label="${title}: ${newest}; in the last five minutes at most ${show(top < 1e-6 ? 0 : top)} in one line">
        ${names.map((name, i) => html`
          <path key=${name} class="line-${i % 6}" d=${path(name)} vector-effect="non-scaling-stroke" />
        `)}
      </svg>
      ${names.length > 1 && html`
        <ul class="legend">
          ${names.map((name, i) => html`<li key=${name} class="line-${i % 6}">${name} <b>${show(values.at(-1)[name])}</b></li>`)}
        </ul>
      `}
    </figure>
  `;
}

function Processes({ processes }) {
  const of = (kind, show) => (one) => (one.name.startsWith(kind) ? show(one) : "");
  const whole = number(0);
  const columns = [
    ["Process", (one) => one.name],
    ["Up", (one) => duration(one.up_seconds)],
    ["CPU", (one) => `${whole(one.cpu * 100)} %`],
    ["Memory", (one) => bytes(one.rss_bytes)],
    ["Files", (one) => whole(one.fds)],
    ["Loop late", (one) => `${one.loop_lag_ms.toFixed(1)} ms`],
    ["Connections", of("shard", (one) => whole(one.connections))],
    ["Acknowledged/s", of("shard", (one) => whole(one.acknowledgements))],
    ["Delivered/s", of("shard", (one) => whole(one.deliveries))],
    ["Waiting", (one) => (one.name === "broker" ? "" : whole(one.name.startsWith("shard") ? one.pending : one.queue))],
    ["Recoveries", of("shard", (one) => whole(one.recoveries))],
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
          ${!talkers.length && html`<tr><td>Nobody yet</td></tr>`}
          ${talkers.map(({ username, messages }) => html`<tr key=${username}><th scope="row">${username}</th><td>${number(0)(messages)}</td></tr>`)}
        </tbody>
      </table>
    </div>
  `;
}

applyTheme();
render(html`<${Admin} />`, document.getElementById("app"));
