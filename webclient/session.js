// Who is signed in on this device: a guest, a token from a link, or an account whose token is renewed by itself.
// An account is shared by the tabs of this browser; a guest or a linked token belongs to its tab alone.

const TAB_KEY = "hubbub.who";
const ACCOUNT_KEY = "hubbub.account";
const EARLY_MS = 60_000; // a token is renewed so long before its end, or at four fifths of a short life

export class Refused extends Error {
  /** A server's refusal: its `status`, and the error object's text as `message`. */
  constructor(status, { message, code, retry_after_ms } = {}) {
    super(message ?? `the server answered ${status}`);
    Object.assign(this, { status, code, retryAfter: retry_after_ms });
  }
}

/** The answer's JSON. Raises `Refused`, and `TypeError` when there is no server. */
export async function request(path, { body, token, username, ...query } = {}) {
  const given = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== undefined && value !== null));
  if (!token && username) given.set("username", username);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const address = given.size ? `${path}?${given}` : path;
  const method = body ? "POST" : "GET";
  const response = await fetch(address, { method, headers, body: body && JSON.stringify(body) });
  const answer = response.status === 204 ? null : await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, answer?.error);
  return answer;
}

function read(storage, key) {
  try {
    return JSON.parse(storage.getItem(key));
  } catch {
    return null;
  }
}

export class Session {
  /** `renewed(token)` hears of each fresh token; `ended(reason)` when the account has to sign in again. */
  constructor({ renewed, ended }) {
    Object.assign(this, { renewed, ended });
    addEventListener("storage", ({ key }) => key === ACCOUNT_KEY && this.#changedElsewhere());
  }

  /** `{kind: "guest" | "token" | "account", username, token?, expires?, refresh?, role?}`, or null. */
  get who() {
    const here = read(sessionStorage, TAB_KEY);
    return here?.kind === "account" || !here ? read(localStorage, ACCOUNT_KEY) : here;
  }

  get username() {
    return this.who?.username ?? null;
  }

  /** A guest, or the owner of a token, whose name the server tells. */
  async enter(who) {
    const { username, role } = await request("/api/me", { token: who.token, username: who.username });
    sessionStorage.setItem(TAB_KEY, JSON.stringify({ ...who, username, role }));
  }

  async login(path, username, password) {
    this.#keep(await request(path, { body: { username, password } }));
  }

  async changePassword(password, next) {
    const body = { password, new_password: next };
    this.#keep(await request("/api/password", { body, token: this.who.token }));
    this.renewed(this.who.token);
  }

  /** Forget who it was; the account's session ends on the server too, if it can be reached. */
  async leave() {
    clearTimeout(this.timer);
    const { who } = this;
    sessionStorage.removeItem(TAB_KEY);
    if (who?.kind !== "account") return;
    localStorage.removeItem(ACCOUNT_KEY);
    await request("/api/logout", { body: { refresh_token: who.refresh } }).catch(() => null);
  }

  /** A request in this session's name. */
  ask(path, options) {
    const { token, username } = this.who ?? {};
    return request(path, { ...options, token, username });
  }

  /** Renew the token in time, from now on. */
  watch() {
    clearTimeout(this.timer);
    const { who } = this;
    if (who?.kind !== "account") return;
    const left = who.expires - Date.now();
    const wait = Math.max(0, left - Math.min(EARLY_MS, left / 5));
    this.timer = setTimeout(() => this.renew().catch(() => this.#later()), Math.min(wait, 2 ** 31 - 1));
  }

  /**
   * A fresh token, once for all tabs: a refresh token is good for one use. Raises when the server is away; calls
   * `ended` when it refuses.
   */
  async renew() {
    const before = this.who?.token;
    const once = async () => {
      const { who } = this;
      if (who?.kind !== "account") return;
      if (who.token === before || who.expires <= Date.now()) {
        try {
          this.#keep(await request("/api/token", { body: { refresh_token: who.refresh } }));
        } catch (error) {
          if (error.status !== 401) throw error;
          localStorage.removeItem(ACCOUNT_KEY);
          this.ended("Your session has ended. Please sign in again.");
          return;
        }
      }
      this.renewed(this.who.token);
      this.watch();
    };
    // Without locks (a page served over plain http) two tabs may both ask; the server lets the second do so, too.
    return navigator.locks ? navigator.locks.request("hubbub.renew", once) : once();
  }

  #keep({ username, role, token, token_expires_at, refresh_token }) {
    const expires = Date.parse(token_expires_at);
    const who = { kind: "account", username, role, token, expires, refresh: refresh_token };
    localStorage.setItem(ACCOUNT_KEY, JSON.stringify(who));
    sessionStorage.setItem(TAB_KEY, JSON.stringify({ kind: "account" }));
    this.watch();
  }

  #later() {
    this.timer = setTimeout(() => this.renew().catch(() => this.#later()), 5000);
  }

  #changedElsewhere() {
    if (read(sessionStorage, TAB_KEY)?.kind !== "account") return;
    if (this.who) {
      this.renewed(this.who.token);
      this.watch();
    } else this.ended("You signed out in another window.");
  }
}
