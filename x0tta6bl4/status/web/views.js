// What stands on the page: each view as a function of what is known. Nothing here fetches, waits or remembers.

import { ago, amount, at, bounds, chart, clock, coded, h, now, plural, span, tone, until, word } from "./draw.js";

const RANKS = { critical: 0, major: 1, warning: 2, info: 3 };
const TONES = { bad: 0, doubtful: 1, quiet: 2, good: 3 };
const TOLD = { allow: "allowed", hold: "held", deny: "denied" };
const FLAGS = {
  auto_healing: "Acting at all. Off stops every action within a second; watching and judging go on.",
  pqc_required: "Links only with post-quantum cryptography, and no start without it.",
  mesh_auto_repair: "The daemon may repair the mesh's topology.",
  monitoring_verbose: "Every observation and every turn is logged, not only what changed.",
  experimental_features: "What is not finished is offered.",
};
const LATEST = 300;

const link = (to, ...text) => h("a", { href: to }, ...text);
const incidentLink = (id, ...text) => link(`#/incidents/${encodeURIComponent(id)}`, ...text);
const button = (text, onclick, props) => h("button", { type: "button", onclick, ...props }, text);
const facts = (pairs) =>
  h("dl", { class: "facts" }, pairs.filter(([, told]) => told !== null && told !== undefined && told !== false && told !== "").map(([name, told]) => h("div", { key: name }, h("dt", null, name), h("dd", null, told))));
// What is merely worth noting is a remark, and no trouble.
const isRemark = (one) => one.severity === "info";
const grade = (severity) => (severity === "info" ? word("remark") : word(severity));
const labelled = (text, input, ...more) => h("label", null, h("span", null, text), input, ...more);

function section(key, heading, ...children) {
  return h("section", { key, "aria-labelledby": `h-${key}`, class: `part ${key}` }, h("h2", { id: `h-${key}` }, heading), ...children);
}

// As one begins and ends; a name in front stays as it is written.
const sentence = (text) => text.replace(/^[a-z]+(?= )/, (word) => word[0].toUpperCase() + word.slice(1)).replace(/([^.!?])$/, "$1.");

// A refusal in words, or what was done, next to what caused it.
function note(said, again) {
  if (!said) return null;
  if (typeof said === "string") return h("p", { class: "note good" }, said);
  const after = said.after ? ` Ask again in ${span(said.after)}.` : "";
  const advice = said.suggestions.filter((one) => !after || !/^(ask|try) again in /.test(one));
  return h(
    "div",
    { class: "note bad", role: "alert" },
    h("p", null, sentence(said.message), after),
    advice.length > 0 && h("ul", null, advice.map((one) => h("li", null, coded(one)))),
    (said.id || again) && h("p", { class: "soft" }, again && button("Try again", again), said.id && ` request ${said.id}`),
  );
}

// Shown and disabled, with the reason, where the caller may not.
function barred(state, scope, id) {
  if (state.may(scope)) return null;
  const session = state.get("session");
  const isIn = session?.kind === "session";
  return h("p", { class: "soft barred", id }, `needs scope ${scope}: `, isIn ? `${session.name} has ${session.scope}` : link("#/account", "sign in"));
}

// What was loaded, or in words why it is not there.
function loaded(state, name, act, draw) {
  const data = state.get(name);
  const trouble = state.trouble(name);
  return [trouble && h("div", { key: "trouble" }, note(trouble, () => act.again(name))), data ? draw(data) : !trouble && h("p", { key: "loading", class: "soft" }, "Loading…")];
}

// -- how it is as a whole ----------------------------------------------------------------------------------------

function overall(state) {
  const told = state.get("status");
  const trouble = state.trouble("status");
  if (!told) {
    if (!trouble) return { word: "looking", of: "quiet", more: ["The daemon is being asked."] };
    if (trouble.status === 401 || trouble.status === 403) return { word: "not signed in", of: "doubtful", more: [trouble.message] };
    if (trouble.status === 429) return { word: "asked too often", of: "doubtful", more: [trouble.message] };
    return { word: trouble.status === 0 ? "daemon unreachable" : "no status", of: "bad", more: [trouble.message] };
  }
  const loop = told.loop;
  const incidents = told.incidents.filter((one) => !isRemark(one)).length;
  const remarks = told.incidents.length - incidents;
  const unwell = told.subjects.filter((one) => one.state !== "well").length;
  const every = told.pauses.find((one) => one.target === "*" && Date.parse(one.until) > now());
  const isOff = told.flags.auto_healing === false;
  const isStuck = loop.seconds_since_progress > 2 * loop.interval_seconds + 30;
  const open = plural(incidents, "open incident");
  const more = [];
  let said;
  let of;
  if (trouble && trouble.status === 0) [said, of] = ["daemon unreachable", "bad"];
  else if (trouble && (trouble.status === 401 || trouble.status === 403)) [said, of] = ["not signed in", "doubtful"];
  else if (state.isStale || (trouble && trouble.status !== 429)) [said, of] = ["no fresh status", "bad"];
  else if (loop.status !== "running") [said, of] = [`loop ${loop.status}`, "bad"];
  else if (isStuck) [said, of] = ["loop makes no progress", "bad"];
  else if (isOff) [said, of] = ["healing off", "bad"];
  else if (every) [said, of] = ["paused", "doubtful"];
  else if (incidents) [said, of] = [open, told.incidents.some((one) => RANKS[one.severity] < 2) ? "bad" : "doubtful"];
  else if (told.conditions.some((one) => one.severity !== "info")) [said, of] = ["daemon degraded", "doubtful"];
  else if (unwell) [said, of] = [`${unwell} not well`, "doubtful"];
  else [said, of] = ["healthy", "good"];
  if (trouble) more.push(trouble.message, "What is shown is what was known then.");
  if (isStuck) more.push(`The last progress was ${span(loop.seconds_since_progress)} before that.`);
  if (isOff && said !== "healing off") more.push("Healing is off.");
  if (isOff) more.push("Nothing is done about any fault until auto_healing is on again.");
  if (every) more.push(h("span", null, "Everything is paused: ", until(every.until), "."));
  if (incidents && said !== open) more.push(`${open}.`);
  if (remarks) more.push(`${plural(remarks, "remark")}.`);
  more.push(told.subjects.length ? `${told.subjects.length - unwell} of ${plural(told.subjects.length, "subject")} well.` : "Nothing is under care yet.");
  if (told.approvals_wanted.length) more.push(h("span", null, link("#/", `${plural(told.approvals_wanted.length, "question")} for you`), "."));
  return { word: said, of, more };
}

export function title(state) {
  const place = { past: "Past", figures: "Figures", controls: "Controls", account: "Account" }[state.route.name];
  return `${overall(state).word}${place ? ` · ${place}` : ""} – x0tta6bl4`;
}

export function top(state, act) {
  const { name } = state.route;
  const how = overall(state);
  const session = state.get("session");
  const tab = (to, text, ...names) => h("li", null, h("a", { href: to, "aria-current": names.includes(name) && "page" }, text));
  const streams = { open: "live", connecting: "connecting", lost: "not live: read every 10 s" };
  return [
    h(
      "div",
      { class: "bar", key: "bar" },
      h("p", { class: "brand" }, link("#/", "x0tta6bl4")),
      h("nav", { "aria-label": "Views" }, h("ul", null, tab("#/", "Now", "now"), tab("#/past", "Past", "past"), tab("#/figures", "Figures", "figures"), tab("#/controls", "Controls", "controls"))),
      h(
        "div",
        { class: "tools" },
        button(`Theme: ${state.theme}`, act.theme),
        h("a", { href: "#/account", "aria-current": name === "account" && "page" }, !session ? "Account" : session.scope ? `${session.name || session.kind} (${session.scope})` : "Sign in"),
      ),
    ),
    h(
      "div",
      { class: `state ${how.of}`, key: "state" },
      h("p", { class: "headline" }, word(how.word, how.of)),
      h("p", { class: "more" }, how.more.map((one, number) => [number > 0 && " ", one])),
      h("p", { class: "soft age" }, state.get("status") && ["as of ", ago(new Date(state.statusAt - Date.now() + now()).toISOString()), ", ", streams[state.stream]]),
    ),
  ];
}

export function foot(state) {
  const told = state.get("status");
  return [
    h("nav", { key: "nav", "aria-label": "Elsewhere" }, link("status", "status"), link("metrics", "metrics"), link("health", "health"), link("docs", "API")),
    told &&
      h(
        "p",
        { key: "told", class: "soft" },
        `version ${told.version}, pid ${told.pid}, ${told.memory.rss_mb.toFixed(0)} MiB, ${told.cpu.percent === null ? "" : `${told.cpu.percent.toFixed(1)} % CPU, `}`,
        `${plural(told.connections, "connection")}, cycle ${told.loop.cycles} (${told.loop.state}), started `,
        ago(told.started_at),
        `, times in ${Intl.DateTimeFormat().resolvedOptions().timeZone}`,
      ),
  ];
}

export function view(state, act) {
  const draw = { now: nowView, incident: incidentView, past: pastView, figures: figuresView, controls: controlsView, account: accountView, lost: lostView }[state.route.name];
  const refused = state.trouble("status");
  const isShut = state.route.name !== "account" && !state.get("status") && (refused?.status === 401 || refused?.status === 403);
  if (isShut) return [h("h1", { key: "h1-shut" }, "Sign in to see how it is"), refused.status === 403 && note(refused), signIn(state, act)];
  return draw(state, act);
}

const lostView = () => [h("h1", { key: "h1-lost" }, "There is no such view"), h("p", { key: "p" }, link("#/", "How it is now"))];

// -- now ---------------------------------------------------------------------------------------------------------

function nowView(state, act) {
  const told = state.get("status");
  const head = h("h1", { key: "h1-now" }, "Now");
  if (!told) return [head, ...loaded(state, "status", act, () => null)];
  return [
    head,
    told.approvals_wanted.length > 0 &&
      section("questions", `Waits for an answer (${told.approvals_wanted.length})`, h("ul", { class: "cards" }, told.approvals_wanted.map((one) => question(state, act, one)))),
    openIncidents(state, act, told),
    heldBack(told),
    conditions(told),
    watched(state, act, told),
    told.pauses.length > 0 && section("pauses", "Paused", pauseList(state, act, told)),
    section("speed", "Speed", speed(state, act), h("p", null, link("#/figures", "All figures"))),
  ];
}

function conditions(told) {
  if (!told.conditions.length) return null;
  return section(
    "conditions",
    "About the daemon itself",
    h(
      "ul",
      { class: "cards" },
      told.conditions.map((one) =>
        h("li", { key: one.code }, h("h3", null, word(one.severity), " ", one.title), h("p", null, coded(one.meaning)), h("p", { class: "soft" }, h("code", null, one.code), " since ", at(one.since))),
      ),
    ),
  );
}

function decisionWords(said) {
  if (!said) return "nothing decided yet";
  return [word(TOLD[said.answer] ?? said.answer), " ", said.action && [h("code", null, said.action), " "], coded(said.sentence), ` (${said.check})`, said.until && [", ", until(said.until)]];
}

function openIncidents(state, act, told) {
  const list = [...told.incidents].sort((a, b) => RANKS[a.severity] - RANKS[b.severity] || a.opened_at.localeCompare(b.opened_at));
  const trouble = list.filter((one) => !isRemark(one));
  const remarks = list.filter(isRemark);
  const shown = trouble.slice(0, state.ui.incidents);
  const noted = remarks.slice(0, state.ui.incidents);
  const began = (one) => h("p", { class: "soft" }, "began ", ago(one.onset_at), one.tries > 0 && `, ${plural(one.tries, "try").replace("trys", "tries")}`, one.reopened > 0 && `, came back ${plural(one.reopened, "time")}`);
  return [
    section(
      "open",
      trouble.length ? `Open incidents (${trouble.length})` : "Open incidents",
      !trouble.length && h("p", { class: "soft" }, "None."),
      h(
        "ul",
        { class: "cards" },
        shown.map((one) =>
          h("li", { key: one.id }, h("h3", null, word(one.severity), " ", incidentLink(one.id, `${one.subject}: ${one.fault}`)), h("p", null, one.summary), h("p", null, word(one.state), " ", decisionWords(one.decision)), began(one)),
        ),
      ),
      more(trouble.length - shown.length, () => act.set({ incidents: state.ui.incidents + 100 })),
    ),
    remarks.length > 0 &&
      section(
        "remarks",
        `Remarks (${remarks.length})`,
        h("p", { class: "soft" }, "Worth noting, and no trouble."),
        h(
          "ul",
          { class: "cards" },
          noted.map((one) => h("li", { key: one.id }, h("h3", null, grade(one.severity), " ", incidentLink(one.id, `${one.subject}: ${one.fault}`)), h("p", null, one.summary), began(one))),
        ),
        more(remarks.length - noted.length, () => act.set({ incidents: state.ui.incidents + 100 })),
      ),
  ];
}

const more = (count, onclick) => count > 0 && h("p", { key: "more" }, button(`${count} more`, onclick));

function heldBack(told) {
  if (!told.held_back.length) return null;
  const shown = told.held_back.slice(0, 50);
  return section(
    "held",
    `Held back (${told.held_back.length})`,
    h(
      "table",
      { class: "wide" },
      h("thead", null, h("tr", null, ["Subject", "What", "Answer", "Why", "Until"].map((one) => h("th", { scope: "col" }, one)))),
      h(
        "tbody",
        null,
        shown.map((one) =>
          h(
            "tr",
            { key: one.incident },
            h("td", { "data-of": "Subject" }, incidentLink(one.incident, one.subject)),
            h("td", { "data-of": "What" }, one.action ? h("code", null, one.action) : "–"),
            h("td", { "data-of": "Answer" }, word(TOLD[one.answer] ?? one.answer)),
            h("td", { "data-of": "Why" }, coded(one.sentence), ` (${one.check})`),
            h("td", { "data-of": "Until" }, one.until ? until(one.until) : "–"),
          ),
        ),
      ),
    ),
    told.held_back.length > shown.length && h("p", { class: "soft" }, `${told.held_back.length - shown.length} more are in `, link("status", "/status"), "."),
  );
}

function watched(state, act, told) {
  const sought = state.ui.filter.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const text = (one) => `${one.name} ${one.state} ${one.kind} ${one.mode} ${one.group} ${one.summary}`.toLowerCase();
  const found = told.subjects
    .filter((one) => sought.every((part) => text(one).includes(part)))
    .sort((a, b) => TONES[tone(a.state)] - TONES[tone(b.state)] || a.name.localeCompare(b.name));
  const shown = found.slice(0, state.ui.subjects);
  const counts = new Map();
  for (const one of told.subjects) counts.set(one.state, (counts.get(one.state) ?? 0) + 1);
  const hasMany = told.subjects.length > 8;
  return section(
    "watched",
    `What is watched (${told.subjects.length})`,
    !told.subjects.length && h("p", null, "Nothing is under care yet: name it under ", h("code", null, "subjects"), " in the configuration."),
    hasMany &&
      h(
        "div",
        { class: "row", key: "filter" },
        labelled("Filter", h("input", { key: "input", type: "search", value: state.ui.filter, placeholder: "name, state, kind, mode, group", oninput: (event) => act.set({ filter: event.target.value }) })),
        h("p", { class: "soft" }, sought.length ? `${found.length} of ${told.subjects.length}` : [...counts].sort((a, b) => TONES[tone(a[0])] - TONES[tone(b[0])]).map(([name, count]) => `${count} ${name}`).join(", ")),
      ),
    h(
      "ul",
      { class: "rows", key: "rows" },
      shown.map((one) =>
        h(
          "li",
          { key: one.name },
          h("div", { class: "who" }, word(one.state), " ", h("b", null, one.name)),
          h("div", null, one.summary, one.incidents.map((id) => [" ", incidentLink(id, "story")])),
          h("div", { class: "soft" }, [one.kind, one.mode, one.group && `group ${one.group}`, one.depends_on.length && `needs ${one.depends_on.join(", ")}`].filter(Boolean).join(" · "), " · ", ago(one.since)),
        ),
      ),
    ),
    more(found.length - shown.length, () => act.set({ subjects: state.ui.subjects + 200 })),
  );
}

// -- a question for a person -------------------------------------------------------------------------------------

function question(state, act, wanted) {
  const key = `approval:${wanted.plan}`;
  const told = state.get(key);
  const isBusy = state.doing[key] === true;
  const isOpen = told?.state === "wanted" && !told.moot && Date.parse(told.expires) > now();
  const against = (told?.guard ?? []).filter((one) => one.answer !== "allow" && one.check !== "mode");
  const speaksFor = told ? [...new Set([...(told.incident.because ?? []), ...told.reasons])].filter((one) => one !== told.incident.summary) : [];
  const reply = (answer) => (event) => act.answer(wanted.plan, answer, event.target.form.elements.why.value.trim());
  return h(
    "li",
    { key, class: "question" },
    h("h3", null, told ? incidentLink(wanted.incident, `${told.subject}: ${told.fault}`) : incidentLink(wanted.incident, wanted.incident)),
    h("p", null, told?.incident.summary ?? wanted.why),
    !told && (state.trouble(key) ? note(state.trouble(key), () => act.again(key)) : state.isLoading(key) ? h("p", { class: "soft" }, "Loading…") : button("Show what would be done", () => act.seePlan(wanted.plan))),
    told && [
      h("h4", null, "What would be done"),
      h(
        "ol",
        null,
        told.steps.map((step) =>
          h("li", null, h("b", null, `${step.action} on ${step.target}`), Object.keys(step.args).length > 0 && [" ", h("code", null, JSON.stringify(step.args))], ": ", step.preview ?? h("span", { class: "bad" }, `it would be refused: ${step.refused}`)),
        ),
      ),
      speaksFor.length > 0 && [h("h4", null, "What it rests on"), h("ul", null, speaksFor.map((one) => h("li", null, one)))],
      against.length > 0 && [h("h4", null, "What would stop it all the same"), h("ul", null, against.map((one) => h("li", null, word(TOLD[one.answer] ?? one.answer), ` ${one.check}: `, coded(one.sentence), one.until && [", ", until(one.until)])))],
      told.moot && h("p", { class: "note" }, `No answer is needed any more: ${told.moot}.`),
      told.state !== "wanted" && h("p", { class: "note" }, `It was ${told.state}${told.who ? ` by ${told.who}` : ""}${told.why ? `: ${told.why}` : ""}.`),
      h(
        "form",
        { class: "row", key: "form", onsubmit: (event) => event.preventDefault() },
        labelled("Why (optional)", h("input", { key: "why", name: "why", maxlength: "1000", autocomplete: "off", disabled: !isOpen || !state.may("operate") })),
        button("Approve", reply("approve"), { class: "go", disabled: !isOpen || !state.may("operate"), "aria-busy": isBusy && "true", "aria-describedby": state.may("operate") ? null : `needs-${wanted.plan}` }),
        button("Reject", reply("reject"), { disabled: !isOpen || !state.may("operate"), "aria-busy": isBusy && "true", "aria-describedby": state.may("operate") ? null : `needs-${wanted.plan}` }),
      ),
    ],
    barred(state, "operate", `needs-${wanted.plan}`),
    note(state.notes[key]),
    h("p", { class: "soft" }, until(told?.expires ?? wanted.expires), " · ", h("code", null, wanted.plan)),
  );
}

// -- one incident ------------------------------------------------------------------------------------------------

function incidentView(state, act) {
  const { id } = state.route;
  const told = state.get(`incident:${id}`);
  const head = h("h1", { key: "h1-incident" }, told ? `${told.subject}: ${told.fault}` : "Incident");
  return [h("p", { key: "back", class: "back" }, link("#/", "← Now")), head, ...loaded(state, `incident:${id}`, act, (one) => story(state, act, one))];
}

function story(state, act, told) {
  const wanted = (state.get("status")?.approvals_wanted ?? []).filter((one) => one.incident === told.id);
  const lines = told.timeline.length > LATEST ? told.timeline.slice(-LATEST) : told.timeline;
  return [
    h("p", { key: "lead", class: "lead" }, grade(told.severity), " ", word(told.ended || told.state), " ", told.summary),
    h(
      "div",
      { key: "facts" },
      facts([
        ["began", at(told.onset_at)],
        ["noticed after", told.seconds_to_detect !== null && span(told.seconds_to_detect)],
        ["well again after", told.seconds_to_recover !== null && span(told.seconds_to_recover)],
        ["closed", told.closed_at && at(told.closed_at)],
        ["came back", told.reopened > 0 && plural(told.reopened, "time")],
        ["tries on this rung", told.tries > 0 && String(told.tries)],
        ["runbook", told.book && `${told.book.name} v${told.book.version}`],
        ["where it came to", told.book?.path.length > 0 && told.book.path.slice(-6).map((one) => one.states.join(" and ")).join(" → ")],
        ["over when", told.over_when.join(", ")],
        ["decided last", told.decision && decisionWords(told.decision)],
        ["id", h("code", null, told.id)],
        ["trace", told.trace_id && h("code", null, told.trace_id)],
      ]),
    ),
    told.because.length > 0 && section("because", "Because", h("ul", null, told.because.map((one) => h("li", null, one)))),
    wanted.length > 0 && section("questions", "Waits for an answer", h("ul", { class: "cards" }, wanted.map((one) => question(state, act, one)))),
    next(state, told),
    judged(state, act, told),
    section(
      "story",
      "Story",
      told.left_out && h("p", { class: "soft" }, told.left_out),
      told.timeline.length > lines.length && h("p", { class: "soft" }, `The latest ${lines.length} of ${told.timeline.length}.`),
      h(
        "ol",
        { class: "timeline" },
        lines.map((line, number) =>
          h(
            "li",
            { key: `${line.at}-${line.kind}-${number}`, class: `${tone(line.phase)} ${line.phase}` },
            h("div", { class: "when" }, at(line.at)),
            h("div", { class: "phase" }, word(line.phase)),
            h("div", null, coded(line.text), line.times > 1 && h("span", { class: "soft" }, ` (${line.times} times, last `, at(line.last_at), ")"), dataOf(line.data)),
          ),
        ),
      ),
    ),
    section("signals", "Signals around it", ...loaded(state, `signals:${told.id}`, act, (signals) => charts(signals))),
  ];
}

// By which series it was found, from what cause and with what else, and whether people call that right. Of an incident
// that tells nothing of it, nothing.
function judged(state, act, told) {
  const how = told.judged;
  const isTold = how.series.length || how.causes.length || how.together.length || how.part_of || how.verdicts.length || (how.storm && how.storm !== told.id);
  if (!isTold) return null;
  const otherwise = how.series.map((one) => one.otherwise).filter(Boolean);
  return section(
    "judged",
    "How it was judged",
    how.series.length > 0 && judgedSeries(how),
    otherwise.length > 0 && [h("h3", null, "What would have had to be different"), h("ul", null, otherwise.map((one) => h("li", null, `${one}.`)))],
    how.causes.length > 0 && [
      h("h3", null, "Likely causes"),
      h("ol", null, how.causes.map((one) => h("li", null, h("b", null, `${one.subject} ${one.name}`), one.share !== null && ` ${amount(one.share, "ratio")}`, one.why && `: ${one.why}`))),
    ],
    how.together.length > 0 && [
      h("h3", null, "Found together with it"),
      h("ul", null, how.together.map((one) => h("li", null, h("b", null, one.subject), ` ${one.fault}`, one.since && [", since ", at(one.since)], one.summary && `: ${one.summary}`))),
      how.more_together > 0 && h("p", { class: "soft" }, `And ${how.more_together} more.`),
    ],
    how.part_of && h("p", null, "It is a part of ", incidentLink(how.part_of.incident, `${how.part_of.subject}: ${how.part_of.fault}`), "."),
    how.storm && how.storm !== told.id && h("p", null, "It came in a ", incidentLink(how.storm, "storm of faults"), "."),
    verdict(state, act, told),
  );
}

function judgedSeries(how) {
  return [
    h(
      "table",
      { class: "wide" },
      h("thead", null, h("tr", null, ["Series", "It was", "Usual, or well", "What decided", "Part", "Why"].map((one) => h("th", { scope: "col" }, one)))),
      h(
        "tbody",
        null,
        how.series.map((one) =>
          h(
            "tr",
            { key: `${one.subject} ${one.metric}` },
            h("td", { "data-of": "Series" }, h("b", null, `${one.subject} ${one.metric}`)),
            h("td", { "data-of": "It was" }, one.value === null ? "–" : amount(one.value, one.unit)),
            h("td", { "data-of": "Usual, or well" }, between(one), bounds(one)),
            h("td", { "data-of": "What decided" }, one.decided || "–"),
            h("td", { "data-of": "Part" }, one.share === null ? "–" : amount(one.share, "ratio")),
            h("td", { "data-of": "Why" }, one.why || "–"),
          ),
        ),
      ),
    ),
    how.more_series > 0 && h("p", { class: "soft" }, `And ${how.more_series} more series.`),
  ];
}

function between({ low, high, unit, usual }) {
  if (unit === "yes/no") return usual || "–";
  if (low !== null && high !== null) return low === high ? amount(low, unit) : `${amount(low, unit)} to ${amount(high, unit)}`;
  if (high !== null) return `up to ${amount(high, unit)}`;
  return low === null ? "–" : `from ${amount(low, unit)} on`;
}

// A person's word on what was found, and what came of it.
function verdict(state, act, told) {
  const key = `verdict:${told.id}`;
  const isBarred = !state.may("operate");
  const say = (isRight) => (event) => act.judge(told.id, isRight, event.target.form);
  const mine = (isRight, text, tint) =>
    button(text, say(isRight), { class: tint, disabled: isBarred, "aria-busy": state.doing[key] && "true", "aria-describedby": isBarred ? `needs-${key}` : "about-verdict" });
  return [
    h("h3", { key: "h-verdict" }, "Was it right to tell?"),
    h("p", { key: "about", class: "soft", id: "about-verdict" }, "Analyzers that learn take your word to heart at once."),
    told.judged.verdicts.length > 0 &&
      h(
        "ul",
        { key: "verdicts", class: "verdicts" },
        told.judged.verdicts.map((one) => h("li", { key: one.at }, word(one.right ? "right" : "false alarm", one.right ? "good" : "doubtful"), ` ${one.who} `, at(one.at), one.why && `: ${one.why}`, h("p", { class: "soft" }, `What came of it: ${one.said || "no analyzer has heard it yet"}.`))),
      ),
    h(
      "form",
      { key: "form", class: "row", onsubmit: (event) => event.preventDefault() },
      labelled("Why (optional)", h("input", { key: "why", name: "why", maxlength: "1000", autocomplete: "off", disabled: isBarred })),
      mine(true, "It was right", "go"),
      mine(false, "False alarm", null),
    ),
    barred(state, "operate", `needs-${key}`),
    h("div", { key: "note" }, note(state.notes[key])),
  ];
}

// What it waits for, and what a person can do about it.
function next(state, told) {
  const one = state.get(`why:${told.id}`)?.incidents.find((found) => found.incident.id === told.id);
  if (told.closed_at || !one) return null;
  const stand = one.stand;
  const lines = [
    one.decision?.remedy && ["What you can do: ", coded(one.decision.remedy)],
    ...(stand?.doing ?? []).map((doing) => [doing.what, doing.under_way ? ", under way" : "", doing.not_before && [", not before ", at(doing.not_before)]]),
    ...(stand?.timers ?? []).map((timer) => [timer.what, timer.at && [": ", until(timer.at)], timer.leads_to.length > 0 && `, then ${timer.leads_to.join(", ")}`]),
    stand?.begins_anew_at && ["Its runbook begins anew: ", until(stand.begins_anew_at)],
    ...(stand?.notes ?? []).map((said) => [said]),
  ].filter(Boolean);
  return lines.length > 0 && section("next", "What comes next", h("ul", null, lines.map((line) => h("li", null, line))));
}

function dataOf(data) {
  const entries = Object.entries(data ?? {}).filter(([, value]) => value !== null && value !== "" && !(Array.isArray(value) && !value.length));
  if (!entries.length) return null;
  return h(
    "details",
    { key: "data" },
    h("summary", null, "Details"),
    h("dl", { class: "data" }, entries.map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, typeof value === "string" ? value : h("code", null, JSON.stringify(value)))))),
  );
}

const seconds = (moment) => (typeof moment === "number" ? moment : Date.parse(moment) / 1000);

function charts(signals) {
  if (!signals.series.length) return h("p", { class: "soft" }, "No signal of that time is kept.");
  const marks = signals.marks.map((one) => ({ t: seconds(one.at), kind: one.kind, text: one.text }));
  return [
    h("div", { key: "charts", class: "charts" }, signals.series.map((one) => chart(one, marks, seconds(signals.from), seconds(signals.to)))),
    marks.length > 0 &&
      h("ol", { key: "marks", class: "marks" }, marks.map((mark) => h("li", null, h("span", { class: "soft" }, `${clock(mark.t * 1000)} ${mark.kind}`), " ", coded(mark.text)))),
    signals.left_out.length > 0 && h("p", { key: "left", class: "soft" }, `Seen, and not drawn here: ${signals.left_out.join(", ")}.`),
  ];
}

// -- what is over ------------------------------------------------------------------------------------------------

function pastView(state, act) {
  const key = act.pastQuery();
  const query = state.route.query;
  const changed = (event) => {
    const wanted = new URLSearchParams();
    for (const [name, value] of new FormData(event.target.form ?? event.target)) if (value.trim()) wanted.set(name, value.trim());
    location.hash = `#/past${String(wanted) && `?${wanted}`}`;
  };
  const option = (value, text, of) => h("option", { value, selected: (query.get(of) ?? "") === value }, text);
  const subjects = state.get("status")?.subjects ?? [];
  return [
    h("h1", { key: "h1-past" }, "Past incidents"),
    h(
      "form",
      {
        key: "form",
        class: "row",
        role: "search",
        onsubmit: (event) => {
          event.preventDefault();
          changed(event);
        },
      },
      labelled("Subject", h("input", { key: "subject", name: "subject", value: query.get("subject") ?? "", list: "subjects", onchange: changed })),
      labelled("Fault", h("input", { key: "fault", name: "fault", value: query.get("fault") ?? "", onchange: changed })),
      labelled("Severity", h("select", { key: "severity", name: "severity", onchange: changed }, option("", "any", "severity"), Object.keys(RANKS).map((one) => option(one, one, "severity")))),
      labelled("Since", h("select", { key: "days", name: "days", onchange: changed }, option("", "ever", "days"), option("1", "a day ago", "days"), option("7", "a week ago", "days"), option("30", "30 days ago", "days"))),
      h("button", { type: "submit" }, "Show"),
      h("datalist", { id: "subjects" }, subjects.slice(0, 200).map((one) => h("option", { key: one.name, value: one.name }))),
    ),
    ...loaded(state, `past:${key}`, act, (page) => {
      const pages = state.past.key === key ? state.past : { list: [], next: null };
      const seen = new Set();
      const list = [...page.incidents, ...pages.list].filter((one) => !seen.has(one.id) && seen.add(one.id));
      const next = pages.next ?? page.next;
      return [
        !list.length && h("p", { key: "none", class: "soft" }, "None that fits."),
        list.length > 0 &&
          h(
            "table",
            { class: "wide", key: "table" },
            h("thead", null, h("tr", null, ["Incident", "Ended", "Began", "Noticed after", "Well after", "What"].map((one) => h("th", { scope: "col" }, one)))),
            h(
              "tbody",
              null,
              list.map((one) =>
                h(
                  "tr",
                  { key: one.id },
                  h("td", { "data-of": "Incident" }, incidentLink(one.id, `${one.subject}: ${one.fault}`), " ", grade(one.severity)),
                  h("td", { "data-of": "Ended" }, word(one.ended || one.state)),
                  h("td", { "data-of": "Began" }, at(one.onset_at)),
                  h("td", { "data-of": "Noticed after" }, span(one.seconds_to_detect)),
                  h("td", { "data-of": "Well after" }, span(one.seconds_to_recover)),
                  h("td", { "data-of": "What" }, one.summary),
                ),
              ),
            ),
          ),
        next && h("p", { key: "older" }, button("Older ones", act.older, { "aria-busy": state.doing.older && "true" })),
        note(state.notes.older),
      ];
    }),
  ];
}

// -- figures -----------------------------------------------------------------------------------------------------

const times = (told) => (told && told.count ? `${span(told.median_seconds)} (95 %: ${span(told.p95_seconds)}, of ${told.count})` : "–");

function speed(state, act) {
  return h(
    "div",
    null,
    ...loaded(state, "summary", act, (told) =>
      facts([
        ["noticed after (median)", times(told.mttd)],
        ["well again after (median)", times(told.mttr)],
        ["in the last", plural(told.days, "day")],
      ]),
    ),
  );
}

function figuresView(state, act) {
  const choose = (days) => button(plural(days, "day"), () => act.days(days), { "aria-pressed": String(state.ui.days === days) });
  return [
    h("h1", { key: "h1-figures" }, "Figures"),
    h("div", { key: "days", class: "row choice", role: "group", "aria-label": "Over" }, [1, 7, 30].map(choose)),
    section(
      "times",
      "How fast",
      ...loaded(state, "summary", act, (told) => [
        facts([
          ["noticed after (MTTD, median)", times(told.mttd)],
          ["well again after what was done (MTTR, median)", times(told.mttr)],
          ["incidents", String(told.incidents)],
        ]),
        told.left_out && h("p", { class: "soft" }, told.left_out),
        faults(told).length > 0 &&
          h(
            "table",
            { class: "wide" },
            h("thead", null, h("tr", null, ["Fault", "Incidents", "Noticed after", "Well again after"].map((one) => h("th", { scope: "col" }, one)))),
            h("tbody", null, faults(told).map(([fault, one]) =>
                h("tr", { key: fault }, h("td", { "data-of": "Fault" }, fault), h("td", { "data-of": "Incidents" }, one.incidents), h("td", { "data-of": "Noticed after" }, times(one.mttd)), h("td", { "data-of": "Well again after" }, times(one.mttr))),
              )),
          ),
      ]),
    ),
    state.get("summary") &&
      section(
        "ended",
        "How it ended",
        h("h3", null, "Incidents"),
        bars(state.get("summary").ended),
        h("h3", null, "Steps"),
        bars(state.get("summary").steps),
      ),
    section("score", "What was only suggested", h("p", { class: "soft" }, "What rules would have done, held against what then really happened."), ...loaded(state, "score", act, scores)),
  ];
}

const faults = (told) => Object.entries(told.by_fault).sort((a, b) => b[1].incidents - a[1].incidents);

function bars(counts) {
  const entries = Object.entries(counts).filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]);
  if (!entries.length) return h("p", { class: "soft" }, "None.");
  const most = Math.max(1, ...entries.map(([, count]) => count));
  return h("ul", { class: "bars" }, entries.map(([name, count]) => h("li", { key: name }, word(name), h("span", { class: "length", "aria-hidden": "true", style: { width: `${(count / most) * 60}%` } }), h("b", null, count))));
}

function scores(told) {
  if (!told.rules.length) return h("p", { class: "soft" }, "Nothing was suggested. Rules suggest for subjects in mode suggest.");
  const kinds = ["right", "needless", "harmful", "unknown"];
  return [
    h(
      "table",
      { class: "wide" },
      h("thead", null, h("tr", null, ["Rule", "Suggested", ...kinds, "right at least"].map((one) => h("th", { scope: "col" }, one)))),
      h(
        "tbody",
        null,
        told.rules.map((one) =>
          h(
            "tr",
            { key: one.rule },
            h("td", { "data-of": "Rule" }, h("b", null, one.rule), h("p", { class: "soft" }, one.missing ? `Missing before it may act: ${one.missing}.` : "It has earned to act:"), one.proposals.map((proposal) => h("pre", { key: proposal.subject, tabindex: "0" }, proposal.lines.join("\n"))), cases(one)),
            h("td", { "data-of": "Suggested" }, one.suggestions),
            kinds.map((kind) => h("td", { "data-of": kind }, one[kind])),
            h("td", { "data-of": "right at least" }, amount(one.right_at_least, "ratio")),
          ),
        ),
      ),
    ),
  ];
}

function cases(rule) {
  const latest = [...rule.cases].sort((a, b) => b.at.localeCompare(a.at)).slice(0, 20);
  if (!latest.length) return null;
  return h(
    "details",
    { key: "cases" },
    h("summary", null, latest.length < rule.cases.length ? `The latest ${latest.length} cases` : plural(latest.length, "case")),
    h("ul", null, latest.map((one) => h("li", { key: `${one.incident} ${one.at}` }, word(one.judgement), " ", at(one.at), " ", `${one.actions.join(" and ")} on ${one.target} `, incidentLink(one.incident, one.fault), `: ${one.why}`))),
  );
}

// -- controls ----------------------------------------------------------------------------------------------------

function controlsView(state, act) {
  const told = state.get("status");
  const head = h("h1", { key: "h1-controls" }, "Controls");
  if (!told) return [head, ...loaded(state, "status", act, () => null)];
  return [
    head,
    section("pauses", "Pauses", told.pauses.length ? pauseList(state, act, told) : h("p", { class: "soft" }, "Nothing is paused."), pauseForm(state, act, told)),
    section("flags", "Feature flags", h("ul", { class: "rows" }, Object.entries(told.flags).map(([name, value]) => flag(state, act, name, value))), barred(state, "admin")),
    section("budgets", "Budgets left", budgets(told.budgets)),
  ];
}

function pauseList(state, act, told) {
  return h(
    "ul",
    { class: "rows" },
    told.pauses.map((one) =>
      h(
        "li",
        { key: `${one.target} ${one.since}` },
        h("div", { class: "who" }, word(one.kind), " ", h("b", null, one.target === "*" ? "everything" : one.target)),
        h("div", null, one.reason || h("span", { class: "soft" }, "no reason given"), h("span", { class: "soft" }, ` (${one.who})`), " ", until(one.until), h("span", { class: "soft" }, `, until ${clock(one.until)}`)),
        h(
          "div",
          null,
          button("End it", () => act.resume(one.target), { disabled: !state.may("operate"), "aria-busy": state.doing[`resume:${one.target}`] && "true", "aria-label": `End the pause of ${one.target === "*" ? "everything" : one.target}` }),
          barred(state, "operate"),
          note(state.notes[`resume:${one.target}`]),
        ),
      ),
    ),
  );
}

const PRESETS = [
  ["900", "15 min"],
  ["3600", "1 h"],
  ["14400", "4 h"],
  ["until", "until…"],
];

function pauseForm(state, act, told) {
  const isBarred = !state.may("operate");
  const submit = async (event) => {
    event.preventDefault();
    const form = event.target;
    const said = Object.fromEntries(new FormData(form));
    const end = said.for === "until" ? Date.parse(said.until) : now() + Number(said.for) * 1000;
    if (!(end > now())) {
      act.forget("pause");
      form.elements.until.setCustomValidity("The end must lie ahead.");
      form.elements.until.reportValidity();
      return;
    }
    const isDone = await act.pause({ target: said.target.trim(), kind: said.kind, reason: said.reason.trim(), until: new Date(end).toISOString() });
    if (isDone) form.reset();
  };
  return h(
    "form",
    { key: "form", class: "card", onsubmit: submit },
    h("h3", null, "Keep its hands off"),
    h("p", { class: "soft" }, "Watching and judging go on; nothing is done to what the target names until the end."),
    h(
      "fieldset",
      { disabled: isBarred },
      h(
        "div",
        { class: "row" },
        labelled("Target", h("input", { key: "target", name: "target", required: true, list: "targets", autocomplete: "off", placeholder: "shop, shop-*, or * for everything" })),
        labelled("Kind", h("select", { key: "kind", name: "kind" }, h("option", { value: "pause" }, "pause"), h("option", { value: "maintenance" }, "maintenance"))),
        labelled("Reason", h("input", { key: "reason", name: "reason", maxlength: "500", autocomplete: "off" })),
      ),
      h("datalist", { id: "targets" }, h("option", { key: "*", value: "*" }), told.subjects.slice(0, 200).map((one) => h("option", { key: one.name, value: one.name }))),
      h(
        "fieldset",
        { class: "row choice" },
        h("legend", null, "For"),
        PRESETS.map(([value, text]) => h("label", { class: "radio", key: value }, h("input", { key: "radio", type: "radio", name: "for", value, checked: value === "3600", onchange: allowed }), text)),
        h("label", { class: "radio" }, h("span", { class: "unseen" }, "Until"), h("input", { key: "until", type: "datetime-local", name: "until", oninput: chosen })),
      ),
      h("button", { type: "submit", "aria-busy": state.doing.pause && "true" }, "Pause"),
    ),
    barred(state, "operate"),
    note(state.notes.pause),
  );
}

function chosen(event) {
  allowed(event);
  event.target.form.elements.for.value = "until";
}

// What was wrong with the end may be right now, or is not asked for any more.
function allowed(event) {
  event.target.form.elements.until.setCustomValidity("");
}

function flag(state, act, name, value) {
  const key = `flag:${name}`;
  const isKill = name === "auto_healing";
  const isAsking = isKill && state.ui.killing;
  const turn = () => (isKill ? act.confirm(!isAsking) : act.flag(name, !value));
  return h(
    "li",
    { key },
    h("div", { class: "who" }, h("b", { id: `name-${name}` }, name), isKill && " (kill switch)"),
    h("div", null, FLAGS[name] ?? ""),
    h(
      "div",
      null,
      h(
        "button",
        { type: "button", role: "switch", class: "switch", "aria-checked": String(value), "aria-labelledby": `name-${name}`, disabled: !state.may("admin"), "aria-busy": state.doing[key] && "true", onclick: turn },
        value ? "on" : "off",
      ),
      isAsking &&
        h(
          "div",
          { key: "ask", class: "note", role: "group", "aria-labelledby": "sure" },
          h("p", { id: "sure" }, value ? "Stop all healing on this host? What fails stays so until it is switched on again." : "Let it heal again, as the modes and the allowlist say?"),
          button(value ? "Stop healing" : "Heal again", () => act.flag(name, !value), { class: value ? "stop" : "go", "aria-busy": state.doing[key] && "true" }),
          " ",
          button("Leave it", () => act.confirm(false), { id: "leave-it" }),
        ),
      note(state.notes[key]),
    ),
  );
}

function budgets(told) {
  return Object.entries(told).map(([budget, one]) => {
    const spent = Object.entries(one.spent).sort((a, b) => a[1].left / a[1].of - b[1].left / b[1].of || a[0].localeCompare(b[0]));
    const shown = spent.slice(0, 30);
    return [
      h("h3", { key: `h-${budget}` }, `${budget.replace(/_/g, " ")}: ${one.of} in ${span(one.window_seconds)}`),
      !spent.length && h("p", { class: "soft" }, "Nothing spent."),
      h(
        "ul",
        { class: "meters", key: budget },
        shown.map(([name, left]) => h("li", { key: name }, h("span", null, name), h("meter", { min: "0", max: left.of, low: left.of / 4, optimum: left.of, value: left.left, "aria-label": `${name}: ${left.left} of ${left.of} left` }), h("span", { class: "soft" }, `${left.left} of ${left.of} left`))),
      ),
      spent.length > shown.length && h("p", { class: "soft" }, `${spent.length - shown.length} more have at least as much left.`),
    ];
  });
}

// -- who am I ----------------------------------------------------------------------------------------------------

function accountView(state, act) {
  const session = state.get("session");
  const isIn = session?.kind === "session";
  const kinds = { local: "somebody on this host, without a key", token: "the operator token", key: "an API key", session: "a signed-in operator" };
  return [
    h("h1", { key: "h1-account" }, "Account"),
    h(
      "div",
      { key: "who" },
      ...loaded(state, "session", act, (told) =>
        told.scope ? h("p", null, "You are ", h("b", null, told.name || told.kind), ` (${kinds[told.kind] ?? told.kind}) and may `, h("b", null, told.scope), ".") : h("p", null, "You are not signed in."),
      ),
    ),
    isIn && h("p", { key: "out", class: "out" }, button("Sign out", act.signOut, { "aria-busy": state.doing["sign-out"] && "true" })),
    h("div", { key: "note" }, note(state.notes["sign-out"])),
    !isIn && signIn(state, act),
    isIn && section("sessions", "Sessions", ...loaded(state, "sessions", act, (told) => sessions(state, act, told.sessions))),
  ];
}

function sessions(state, act, list) {
  return h(
    "table",
    { class: "wide" },
    h("thead", null, h("tr", null, ["Who", "Began", "Seen last", "Ends", "From", ""].map((one) => h("th", { scope: "col" }, one || h("span", { class: "unseen" }, "End it"))))),
    h(
      "tbody",
      null,
      list.map((one) =>
        h(
          "tr",
          { key: one.id },
          h("td", { "data-of": "Who" }, one.operator, ` (${one.scope})`, one.is_this && [" ", word("this one", "good")]),
          h("td", { "data-of": "Began" }, at(one.created_at)),
          h("td", { "data-of": "Seen last" }, ago(one.used_at)),
          h("td", { "data-of": "Ends" }, at(one.ends_at)),
          h("td", { "data-of": "From", title: one.agent }, [one.client, program(one.agent)].filter(Boolean).join(", ")),
          h("td", null, button("End", () => act.endSession(one.id, one.is_this), { "aria-busy": state.doing[`session:${one.id}`] && "true", "aria-label": `End the session of ${one.operator} from ${one.client}` }), note(state.notes[`session:${one.id}`])),
        ),
      ),
    ),
  );
}

// "Chrome 131 on Linux" of what a browser says of itself; all of it is told to who points at it.
function program(agent) {
  const made = /(Edg|OPR|Firefox|Chrome|Version)\w*\/(\d+)/.exec(agent.replace(/Chrome(?=.*(Edg|OPR))/, ""));
  if (!made) return agent;
  const name = { Edg: "Edge", OPR: "Opera", Version: "Safari" }[made[1]] ?? made[1];
  const on = ["Android", "iPhone", "iPad", "Windows", "Mac OS X", "Linux"].find((one) => agent.includes(one));
  return `${name} ${made[2]}${on ? ` on ${on}` : ""}`;
}

function signIn(state, act) {
  if (state.get("session")?.can_sign_in === false) {
    return h("p", { key: "nobody", class: "note" }, "Nobody can sign in yet: ", h("code", null, "x0tta6bl4 operators add NAME --scope operate"), " on the daemon's host adds an operator.");
  }
  const submit = async (event) => {
    event.preventDefault();
    const form = event.target;
    const isIn = await act.signIn(form.elements.name.value.trim(), form.elements.password.value);
    form.elements.password.value = "";
    if (!isIn) form.elements.password.focus();
  };
  return h(
    "form",
    { key: "sign-in", class: "card narrow", onsubmit: submit },
    h("h2", null, "Sign in"),
    labelled("Name", h("input", { key: "name", name: "name", required: true, autocomplete: "username", autocapitalize: "none", spellcheck: "false" })),
    labelled("Password", h("input", { key: "password", name: "password", type: "password", required: true, autocomplete: "current-password" })),
    h("button", { type: "submit", "aria-busy": state.doing["sign-in"] && "true" }, "Sign in"),
    note(state.notes["sign-in"]),
  );
}
