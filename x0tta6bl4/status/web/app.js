// The page: knows what is shown, fetches what that needs when it has changed, and carries out what is asked for.

import { ask, RANK, Stream, Trouble, whoAsks } from "./ask.js";
import { now, patch, plural, setClock, tick } from "./draw.js";
import { foot, title, top, view } from "./views.js";

const QUIET = 30_000;
const BUSY = 10_000;
const SIGNALS = 20_000;
const STALE = 45_000;
const OFTEN = 10;

const THEME = "x0tta6bl4-theme";

function remembered() {
  try {
    return localStorage.getItem(THEME);
  } catch {
    return null; // a browser that keeps nothing for this site: each visit begins with the system's theme
  }
}

// -- what is known -----------------------------------------------------------------------------------------------

const state = {
  route: { name: "now", id: "", query: new URLSearchParams() },
  stream: "connecting",
  theme: remembered() ?? "auto",
  notes: {},
  doing: {},
  ui: { filter: "", subjects: 60, incidents: 40, plans: new Set(), killing: false, days: 7 },
  past: { key: "", list: [], next: null },
  get: (name) => resources.get(name)?.data ?? null,
  trouble: (name) => resources.get(name)?.trouble ?? null,
  isLoading: (name) => resources.get(name)?.busy === true,
  may: (scope) => (RANK[state.get("session")?.scope] ?? 0) >= RANK[scope],
};

// Each is one GET: its path, what was last answered or refused, and when it was asked for.
const resources = new Map();
let notBefore = 0;

function resource(name) {
  if (!resources.has(name)) {
    resources.set(name, { name, data: null, trouble: null, busy: false, dirty: true, urgent: false, at: 0, began: [], changed: 0, timer: 0 });
  }
  return resources.get(name);
}

// What the present view shows, and where it comes from.
function needs() {
  const { name, id } = state.route;
  const list = { session: "api/v1/session", status: "status" };
  for (const plan of shownPlans()) list[`approval:${plan}`] = `api/v1/approvals/${encodeURIComponent(plan)}`;
  if (name === "now") list.summary = `api/v1/summary?days=${state.ui.days}`;
  if (name === "incident") {
    list[`incident:${id}`] = `api/v1/incidents/${encodeURIComponent(id)}`;
    if (state.get(`incident:${id}`)?.closed_at === null) list[`why:${id}`] = `api/v1/why/${encodeURIComponent(id)}`;
    list[`signals:${id}`] = `api/v1/incidents/${encodeURIComponent(id)}/signals`;
  }
  if (name === "past") list[`past:${pastQuery()}`] = `api/v1/incidents?${pastQuery()}`;
  if (name === "figures") {
    list.summary = `api/v1/summary?days=${state.ui.days}`;
    list.score = `api/v1/score?days=${state.ui.days}`;
  }
  if (name === "account" && state.get("session")?.kind === "session") list.sessions = "api/v1/sessions";
  return list;
}

function shownPlans() {
  const { name, id } = state.route;
  const wanted = state.get("status")?.approvals_wanted ?? [];
  if (name === "incident") return wanted.filter((one) => one.incident === id).map((one) => one.plan);
  if (name !== "now") return [];
  return wanted.filter((one, number) => number < 5 || state.ui.plans.has(one.plan)).map((one) => one.plan);
}

function pastQuery() {
  const query = new URLSearchParams({ state: "closed", limit: "50" });
  for (const key of ["subject", "fault", "severity"]) if (state.route.query.get(key)) query.set(key, state.route.query.get(key));
  const days = Number(state.route.query.get("days"));
  // To the hour: the same question stays the same resource.
  if (days) query.set("since", new Date(Math.floor(now() / 3_600_000) * 3_600_000 - days * 86_400_000).toISOString());
  return query.toString();
}

// -- fetching ----------------------------------------------------------------------------------------------------

// Something about it has changed. Many of these are one request: at most one a second, and while it goes on, fewer.
function touch(...names) {
  for (const name of names) resource(name).dirty = true;
  fetchNeeded();
}

// What somebody has just changed here is wanted at once.
function touchNow(...names) {
  for (const name of names) {
    const one = resource(name);
    clearTimeout(one.timer);
    Object.assign(one, { timer: 0, dirty: true, urgent: true });
  }
  fetchNeeded();
}

function fetchNeeded() {
  if (document.hidden) return;
  for (const [name, path] of Object.entries(needs())) {
    const one = resource(name);
    if (!one.dirty || one.busy || one.timer) continue;
    one.began = one.began.filter((at) => Date.now() - at < 60_000);
    const gap = one.urgent ? 0 : name === "summary" && one.data ? 15_000 : one.began.length < OFTEN ? 1000 : 5000;
    const wait = Math.max(notBefore, one.at + gap) - Date.now();
    if (wait <= 0) load(one, path);
    else {
      one.timer = setTimeout(() => {
        one.timer = 0;
        fetchNeeded();
      }, wait);
    }
  }
}

async function load(one, path) {
  Object.assign(one, { busy: true, dirty: false, urgent: false, at: Date.now() });
  one.began.push(one.at);
  const wasGone = one.name === "status" && one.trouble !== null;
  try {
    one.data = one.name === "session" ? await whoAsks() : await ask("GET", path);
    one.trouble = null;
    one.changed = Date.now();
    if (one.name === "status") tellStatus(one.data, wasGone);
    if (one.name === "session") resource("sessions").dirty = true;
  } catch (trouble) {
    if (!(trouble instanceof Trouble)) throw trouble;
    one.trouble = trouble;
    if (trouble.after) notBefore = Date.now() + trouble.after * 1000;
    if (trouble.status === 429) one.dirty = true;
    if (trouble.status === 401 && one.name !== "session") touch("session");
  } finally {
    one.busy = false;
    show();
    fetchNeeded();
  }
}

let known = null;

function tellStatus(told, wasGone) {
  setClock(told.timestamp);
  if (wasGone) for (const name of Object.keys(needs())) if (name !== "status") resource(name).dirty = true;
  const open = new Set(told.incidents.map((one) => one.id));
  if (known) {
    const fresh = told.incidents.filter((one) => !known.has(one.id));
    const over = [...known].filter((id) => !open.has(id)).length;
    if (fresh.length === 1) say(`New incident: ${fresh[0].subject} is ${fresh[0].fault}.`);
    else if (fresh.length) say(`${fresh.length} new incidents.`);
    if (over) say(`${plural(over, "incident")} closed.`);
    if (over) resource("summary").dirty = true;
  }
  known = open;
  fetchNeeded();
}

function refreshAll(before = Infinity) {
  for (const name of Object.keys(needs())) if (resource(name).at < before) resource(name).dirty = true;
  fetchNeeded();
}

// -- live --------------------------------------------------------------------------------------------------------

const stream = new Stream({
  on(type, event) {
    const about = event.data ?? {};
    touch("status");
    for (const name of [`incident:${about.incident}`, `why:${about.incident}`, `approval:${about.plan}`]) if (resources.has(name)) touch(name);
    const id = state.route.name === "incident" ? state.route.id : "";
    const shown = id && state.get(`incident:${id}`);
    if (shown && about.incident === undefined && event.subject === shown.subject) touch(`incident:${id}`);
    if (type === "incident" && about.state === "closed") {
      for (const name of resources.keys()) if (name.startsWith("past:")) resource(name).dirty = true;
      touch("summary");
    }
  },
  lost: () => refreshAll(),
  changed(how) {
    state.stream = how;
    // What was read a moment ago need not be read again.
    if (how === "open") refreshAll(Date.now() - 3000);
    // Most likely the daemon has gone, which should not stay unsaid until the next look.
    if (how === "lost") touch("status");
    show();
  },
});

// The stream does not tell of everything (a budget that fills up again, a probe's first "no"), and a dead connection
// tells of nothing: so the whole is read now and then, sooner while something goes on.
setInterval(() => {
  if (document.hidden) return;
  tick();
  const status = resource("status");
  const told = status.data;
  const isQuiet = state.stream === "open" && !status.trouble && !told?.incidents.length && !told?.in_treatment.length;
  if (Date.now() - status.at > (isQuiet ? QUIET : BUSY) && !status.busy) {
    touch("status");
    if (state.stream !== "open" && state.route.name === "incident") touch(`incident:${state.route.id}`, `why:${state.route.id}`);
  }
  const signals = resources.get(`signals:${state.route.id}`);
  const isOpen = state.get(`incident:${state.route.id}`)?.state !== "closed";
  if (state.route.name === "incident" && isOpen && signals?.data && Date.now() - signals.at > SIGNALS) touch(signals.name);
  if (status.data && Date.now() - status.changed > STALE) show();
}, 1000);

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  tick();
  if (Date.now() - resource("status").at > QUIET) resource("status").dirty = true;
  fetchNeeded();
});

// -- what can be done --------------------------------------------------------------------------------------------

// One at a time for each thing; a refusal is kept beside what caused it.
async function carryOut(key, work, done = "") {
  if (state.doing[key]) return false;
  state.doing[key] = true;
  delete state.notes[key];
  show();
  try {
    const words = done instanceof Function ? done(await work()) : (await work(), done);
    if (words) {
      state.notes[key] = words;
      say(words);
    }
    return true;
  } catch (trouble) {
    if (!(trouble instanceof Trouble)) throw trouble;
    state.notes[key] = trouble;
    say(trouble.message);
    if (trouble.status === 401) touch("session");
    return false;
  } finally {
    delete state.doing[key];
    show();
  }
}

const act = {
  set(changes) {
    Object.assign(state.ui, changes);
    show();
    fetchNeeded();
  },
  forget(key) {
    delete state.notes[key];
    show();
  },
  again(name) {
    touchNow(name);
  },
  days(days) {
    state.ui.days = days;
    touchNow("summary", "score");
    show();
  },
  theme() {
    state.theme = { auto: "light", light: "dark", dark: "auto" }[state.theme];
    show();
    try {
      localStorage.setItem(THEME, state.theme);
    } catch {
      // it holds for this visit
    }
  },
  seePlan(plan) {
    state.ui.plans.add(plan);
    show();
    fetchNeeded();
  },
  async answer(plan, answer, why) {
    await carryOut(`approval:${plan}`, () => ask("POST", `api/v1/approvals/${encodeURIComponent(plan)}`, { answer, why }), answer === "approve" ? "Approved." : "Rejected.");
    touchNow("status", `approval:${plan}`);
    if (state.route.name === "incident") touchNow(`incident:${state.route.id}`, `why:${state.route.id}`);
  },
  async judge(id, right, form) {
    const words = (told) => `Taken down: ${right ? "it was right" : "it was a false alarm"}. ${told.said ? `What came of it: ${told.said}.` : "No analyzer has heard it yet."}`;
    const why = form.elements.why.value.trim();
    const isDone = await carryOut(`verdict:${id}`, () => ask("POST", `api/v1/incidents/${encodeURIComponent(id)}/verdicts`, { right, why }), words);
    if (isDone) form.reset();
    touchNow(`incident:${id}`, `signals:${id}`, "status");
  },
  async pause({ target, kind, reason, until }) {
    const isDone = await carryOut("pause", () => ask("POST", "api/v1/pauses", { target, kind, reason, until }), `${target === "*" ? "Everything" : target} is paused.`);
    touchNow("status");
    return isDone;
  },
  async resume(target) {
    await carryOut(`resume:${target}`, () => ask("DELETE", `api/v1/pauses/${encodeURIComponent(target)}`));
    touchNow("status");
  },
  confirm(isAsking) {
    act.set({ killing: isAsking });
    if (isAsking) requestAnimationFrame(() => document.getElementById("leave-it")?.focus());
  },
  async flag(name, value) {
    await carryOut(`flag:${name}`, () => ask("POST", "api/v1/config/features", { [name]: value }), `${name} is ${value ? "on" : "off"} now.`);
    state.ui.killing = false;
    touchNow("status");
  },
  async signIn(name, password) {
    const isIn = await carryOut("sign-in", () => ask("POST", "api/v1/session", { name, password }));
    if (isIn) await anew();
    return isIn;
  },
  async signOut() {
    await carryOut("sign-out", () => ask("DELETE", "api/v1/session"), "You are signed out.");
    await anew();
  },
  async endSession(id, isOwn) {
    await carryOut(`session:${id}`, () => ask("DELETE", `api/v1/sessions/${encodeURIComponent(id)}`), "The session was ended.");
    if (isOwn) await anew();
    else touchNow("sessions");
  },
  async older() {
    const key = pastQuery();
    const pages = (state.past = state.past.key === key ? state.past : { key, list: [], next: null });
    const next = pages.next ?? state.get(`past:${key}`)?.next;
    await carryOut("older", async () => {
      const page = await ask("GET", `api/v1/incidents?${key}&cursor=${encodeURIComponent(next)}`);
      pages.list.push(...page.incidents);
      pages.next = page.next ?? "";
    });
  },
  pastQuery,
};

// Who asks has changed: what was shown to the one is not for the other.
async function anew() {
  for (const [name, one] of resources) if (name !== "session" && name !== "status") Object.assign(one, { data: null, trouble: null, dirty: true });
  await load(resource("session"), "api/v1/session");
  if (state.get("session")?.scope) stream.open();
  else Object.assign(resource("status"), { data: null });
  refreshAll();
  touchNow("status");
}

// -- showing -----------------------------------------------------------------------------------------------------

const places = Object.fromEntries(["top", "content", "foot", "said"].map((id) => [id, document.getElementById(id)]));
let isAsked = false;

function show() {
  if (isAsked) return;
  isAsked = true;
  // Not by animation frame alone: a tab in the background has none, and its title should still be true.
  (document.hidden ? setTimeout : requestAnimationFrame)(() => {
    isAsked = false;
    const told = resource("status");
    state.statusAt = told.changed;
    state.isStale = told.changed > 0 && Date.now() - told.changed > STALE;
    document.documentElement.dataset.theme = state.theme;
    document.title = title(state);
    patch(places.top, top(state, act));
    patch(places.content, view(state, act));
    patch(places.foot, foot(state));
  });
}

let sayings = [];
let saying = 0;

// For those who hear the page: what changed, gathered, and not more often than one can listen.
function say(sentence) {
  if (!sayings.includes(sentence)) sayings.push(sentence);
  saying ||= setTimeout(() => {
    places.said.textContent = sayings.slice(0, 3).join(" ") + (sayings.length > 3 ? ` And ${sayings.length - 3} more.` : "");
    sayings = [];
    saying = 0;
  }, 1500);
}

function readRoute(isFirst) {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name = "", id = ""] = path.split("/").map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  const views = { "": "now", past: "past", figures: "figures", controls: "controls", account: "account", incidents: id ? "incident" : "past" };
  const wasAt = `${state.route.name}/${state.route.id}`;
  if (state.route.name !== (views[name] ?? "lost")) state.notes = {};
  state.route = { name: views[name] ?? "lost", id, query: new URLSearchParams(query) };
  for (const one of ["summary", "score", "session"]) if (Date.now() - resource(one).at > 30_000) resource(one).dirty = true;
  // Signals are large: those of the incident before are let go.
  for (const one of resources.keys()) if (one.startsWith("signals:") && one !== `signals:${id}`) resources.delete(one);
  const incident = resources.get(`incident:${id}`);
  if (incident && Date.now() - incident.at > 5000) incident.dirty = resource(`why:${id}`).dirty = true;
  show();
  fetchNeeded();
  const isSame = isFirst || wasAt === `${state.route.name}/${state.route.id}`;
  requestAnimationFrame(() => {
    // What is looked for stands in the address; going back changes it under the form.
    for (const input of places.content.querySelector("form[role=search]")?.elements ?? []) {
      if (input.name && input !== document.activeElement) input.value = state.route.query.get(input.name) ?? "";
    }
    if (isSame) return;
    scrollTo(0, 0);
    const heading = places.content.querySelector("h1");
    if (heading) heading.tabIndex = -1;
    heading?.focus({ preventScroll: true });
  });
}

document.querySelector(".skip").onclick = (event) => {
  event.preventDefault(); // the address says which view it is
  places.content.focus();
};
addEventListener("hashchange", () => readRoute(false));
readRoute(true);
stream.open();
