// Talks with the daemon: requests with their refusals in words, the session, and the stream of events.

export const RANK = { read: 1, operate: 2, admin: 3 };
const WITHIN = 35_000;
const TYPES = [
  "incident", "decision", "step", "runbook", "condition", "approval", "pause", "health_status", "flag_change",
  "config_change",
];
const HIDDEN_FOR = 60_000;

// An answer that is none: what is wrong in a sentence, what can be done, and when to ask again.
export class Trouble extends Error {
  constructor(status, message, { suggestions = [], after = 0, code = "", id = "" } = {}) {
    super(message);
    Object.assign(this, { status, suggestions, after, code, id });
  }
}

function cookie(name) {
  const found = document.cookie.split("; ").find((part) => part.startsWith(`${name}=`));
  return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
}

const csrf = () => cookie("__Host-x0_csrf") || cookie("x0_csrf");

async function once(method, path, body) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && csrf()) headers["X-CSRF-Token"] = csrf();
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(WITHIN),
    });
  } catch (error) {
    const why = error.name === "TimeoutError" ? `The daemon gave no answer within ${WITHIN / 1000} s.` : "The daemon cannot be reached.";
    throw new Trouble(0, why, { suggestions: ["`systemctl status x0tta6bl4` or `x0tta6bl4 status` on its host says more"] });
  }
  const isJson = (response.headers.get("content-type") ?? "").includes("json");
  const told = isJson && response.status !== 204 ? await response.json().catch(() => null) : null;
  if (response.ok) return told;
  throw new Trouble(response.status, told?.detail ?? `The answer was ${response.status} ${response.statusText}.`, {
    suggestions: told?.error?.suggestions ?? [],
    code: told?.error?.code ?? "",
    id: told?.error?.request_id ?? "",
    after: Number(response.headers.get("retry-after")) || 0,
  });
}

// As `once`; a session whose access has run out is made fresh first, once, and the request asked again.
export async function ask(method, path, body) {
  const had = csrf();
  try {
    return await once(method, path, body);
  } catch (trouble) {
    if (trouble.status !== 401 || !had || path === "api/v1/session") throw trouble;
    await freshen(had);
    return once(method, path, body);
  }
}

// Who asks. On the daemon's own host one whose access has run out is a neighbour who may read, and would stay that.
export async function whoAsks() {
  const had = csrf();
  const told = await once("GET", "api/v1/session");
  if (told.kind === "session" || !had) return told;
  try {
    await freshen(had);
  } catch (trouble) {
    if (trouble.status !== 401) throw trouble;
    return told;
  }
  return once("GET", "api/v1/session");
}

const freshen = (had) =>
  alone(async () => {
    // Another tab may have done it while this one waited: the token differs then.
    if (csrf() === had) await once("POST", "api/v1/session/refresh");
  });

let queue = Promise.resolve();

// One at a time over all tabs: a refresh token that is used twice is taken for stolen.
function alone(work) {
  if (navigator.locks) return navigator.locks.request("x0tta6bl4-refresh", work);
  queue = queue.then(work, work);
  return queue;
}

// One EventSource; it reconnects by itself with Last-Event-ID. When it was refused for good it is opened anew, later
// and later. Nothing is held open for long by a tab that nobody sees.
export class Stream {
  constructor({ on, lost, changed }) {
    Object.assign(this, { on, lost, changed, state: "connecting", last: "", tries: 0 });
    document.addEventListener("visibilitychange", () => this.seen());
  }

  open() {
    clearTimeout(this.later);
    this.source?.close();
    const resume = this.last ? `&last_event_id=${encodeURIComponent(this.last)}` : "";
    this.source = new EventSource(`api/v1/events?types=${TYPES.join(",")}${resume}`);
    this.source.onopen = () => {
      this.tries = 0;
      this.turn("open");
    };
    this.source.onerror = () => {
      this.turn("lost");
      if (this.source.readyState !== EventSource.CLOSED) return;
      this.tries += 1;
      this.later = setTimeout(() => this.open(), Math.min(60, 2 ** this.tries) * (750 + 500 * Math.random()));
    };
    for (const type of TYPES) {
      this.source.addEventListener(`x0tta6bl4.${type}`, (frame) => {
        this.last = frame.lastEventId || this.last;
        this.on(type, JSON.parse(frame.data));
      });
    }
    for (const type of ["gap", "dropped"]) this.source.addEventListener(`x0tta6bl4.${type}`, () => this.lost());
  }

  close() {
    clearTimeout(this.later);
    this.source?.close();
    this.source = null;
  }

  turn(state) {
    if (state === this.state) return;
    this.state = state;
    this.changed(state);
  }

  seen() {
    clearTimeout(this.unseen);
    if (document.hidden) this.unseen = setTimeout(() => this.close(), HIDDEN_FOR);
    else if (!this.source) {
      this.turn("connecting");
      this.open();
    }
  }
}
