// Puts what is known on the screen: builds and updates elements by key, words times and numbers, draws charts.
// Nothing here asks the daemon anything, and no text ever becomes markup.

const SVG = "http://www.w3.org/2000/svg";
// Said once, when the element is made: afterwards they belong to whoever types, opens or chooses.
const THEIRS = new Set(["value", "checked", "open"]);

export function h(tag, props, ...children) {
  return { tag, props: props ?? {}, children: flat(children, []) };
}

function flat(children, into) {
  for (const child of children) {
    if (Array.isArray(child)) flat(child, into);
    else if (child !== null && child !== undefined && child !== false && child !== "") {
      into.push(typeof child === "object" ? child : String(child));
    }
  }
  return into;
}

// Makes the children of an element be those, and keeps every element that is still wanted: what has the focus, is
// half typed or stands open stays so.
export function patch(parent, children) {
  const active = document.activeElement;
  const home = parent.contains(active) ? active.closest("section, main, header") : null;
  fill(parent, flat([children], []), parent.namespaceURI);
  if (home === null || (document.activeElement === active && !active.disabled)) return;
  // Moving an element takes the focus from it; one that went leaves it to the heading of where it was.
  const next = active.isConnected && !active.disabled ? active : (home.isConnected ? home : parent).querySelector("h1, h2, h3");
  if (next && next !== active && !next.hasAttribute("tabindex")) next.tabIndex = -1;
  next?.focus({ preventScroll: true });
}

function fill(parent, wanted, space) {
  const named = new Map();
  for (let node = parent.firstChild; node; node = node.nextSibling) if (node.$key !== undefined) named.set(node.$key, node);
  let at = parent.firstChild;
  for (const one of wanted) {
    let node;
    if (typeof one === "string") {
      if (at && at.nodeType === Node.TEXT_NODE) {
        if (at.data !== one) at.data = one;
        at = at.nextSibling;
        continue;
      }
      node = document.createTextNode(one);
    } else {
      const key = one.props.key;
      if (key !== undefined) {
        node = named.get(key);
        if (node && node.$tag !== one.tag) node = undefined;
        named.delete(key);
      } else if (at && at.$key === undefined && at.$tag === one.tag) node = at;
      node ??= make(one, space);
      dress(node, one.props);
      fill(node, one.children, node.namespaceURI);
    }
    if (node === at) at = at.nextSibling;
    else {
      // One that goes is taken away first: what stands behind it need not be moved, and keeps the focus.
      while (at && at.$key !== undefined && at !== node && !stays(at, wanted)) at = drop(at);
      if (node === at) at = at.nextSibling;
      else parent.insertBefore(node, at);
    }
  }
  while (at) at = drop(at);
}

function stays(node, wanted) {
  if (wanted.$keys === undefined) wanted.$keys = new Set(wanted.map((one) => one.props?.key));
  return wanted.$keys.has(node.$key);
}

function drop(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

function make(one, space) {
  const node = document.createElementNS(one.tag === "svg" ? SVG : space, one.tag);
  node.$tag = one.tag;
  node.$key = one.props.key;
  node.$props = {};
  for (const name of THEIRS) if (name in one.props) node[name] = one.props[name];
  if (one.props.checked) node.defaultChecked = true; // what a form that is reset goes back to
  return node;
}

function dress(node, props) {
  const before = node.$props;
  for (const name in before) if (!(name in props)) wear(node, name, null);
  for (const name in props) if (before[name] !== props[name]) wear(node, name, props[name]);
  node.$props = props;
}

function wear(node, name, value) {
  if (name === "key" || THEIRS.has(name)) return;
  if (name.startsWith("on")) node[name] = value;
  else if (name === "style") for (const part in value) node.style.setProperty(part, value[part]);
  else if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : value);
}

// -- words -------------------------------------------------------------------------------------------------------

// How far the daemon's clock is ahead of this machine's, in milliseconds: ages are told by the daemon's.
let ahead = 0;

export function setClock(iso) {
  const there = Date.parse(iso);
  if (!Number.isNaN(there)) ahead = there - Date.now();
}

export const now = () => Date.now() + ahead;

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.0995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${Number.isInteger(seconds) ? seconds : seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

function left(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds >= 3600) return span(seconds);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} min`;
}

const clockOf = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const dayOf = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const wholeOf = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

// "14:02:11", and the day before it unless it is today.
export function clock(moment) {
  const date = new Date(moment);
  if (Number.isNaN(date.getTime())) return "at an unknown time";
  const isToday = date.toDateString() === new Date(now()).toDateString();
  return (isToday ? "" : `${dayOf.format(date)}, `) + clockOf.format(date);
}

function timed(iso, kind, text) {
  if (!iso || Number.isNaN(Date.parse(iso))) return "at an unknown time";
  return h("time", { datetime: iso, title: wholeOf.format(new Date(iso)), [kind]: iso }, text);
}

function agoText(iso) {
  const seconds = (now() - Date.parse(iso)) / 1000;
  return seconds < 2 ? "just now" : `${seconds < 90 ? `${Math.round(seconds)} s` : span(seconds)} ago`;
}

const untilText = (iso) => (Date.parse(iso) > now() ? `${left(Date.parse(iso) - now())} left` : "time is up");

export const at = (iso) => timed(iso, "data-at", iso && clock(iso));
export const ago = (iso) => timed(iso, "data-ago", iso && agoText(iso));
export const until = (iso) => timed(iso, "data-until", iso && untilText(iso));

// Once a second, for what is on the screen; only words that have changed are touched.
export function tick() {
  for (const node of document.querySelectorAll("[data-ago], [data-until]")) {
    const said = node.dataset.ago ? agoText(node.dataset.ago) : untilText(node.dataset.until);
    if (node.firstChild && node.firstChild.data !== said) node.firstChild.data = said;
  }
}

const TONES = {
  good: ["well", "running", "healthy", "allow", "allowed", "verified", "done", "healed", "recovered", "approved", "on", "right"],
  doubtful: [
    "unknown", "recovering", "treated", "warning", "waiting", "responding", "stopping", "hold", "held", "asked", "wanted",
    "unverified", "aged out", "needless", "paused", "open",
  ],
  quiet: ["info", "seen", "judged", "planned", "moved", "answered", "closed", "merged", "simulated", "expired", "off", "observe", "pause", "maintenance", "remark"],
};
const TONE = new Map(Object.entries(TONES).flatMap(([tone, words]) => words.map((word) => [word, tone])));

// Which colour and sign a word has; the word itself always stands there too.
export const tone = (word) => TONE.get(word) ?? "bad";

// What stands between backquotes in a sentence is something to type.
export const coded = (text) => text.split(/`([^`]+)`/).map((part, number) => (number % 2 ? h("code", null, part) : part));

export const word = (said, of = tone(said)) => h("span", { class: `word ${of}` }, said);

// -- numbers -----------------------------------------------------------------------------------------------------

export function amount(value, unit) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (unit === "bytes") {
    const power = size < 1024 ? 0 : Math.min(4, Math.floor(Math.log2(size) / 10));
    return `${trim(value / 1024 ** power)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
  }
  if (unit === "ratio") return `${trim(value * 100)} %`;
  if (unit === "seconds") return size > 0 && size < 1 ? `${trim(value * 1000)} ms` : `${trim(value)} s`;
  if (unit === "yes/no") return value >= 0.5 ? "yes" : "no";
  if (unit === "percent") return `${trim(value)} %`;
  if (unit === "celsius") return `${trim(value)} °C`;
  return trim(value) + (unit && unit !== "count" ? ` ${unit}` : "");
}

const trim = (value) => String(Number(value.toPrecision(Math.abs(value) >= 100 ? 4 : 3)));

// -- charts ------------------------------------------------------------------------------------------------------

const WIDE = 1000;
const MOST = 500;
const FLAGGED = new Set(["onset", "begun", "verified", "closed"]);

// Where one value lies against the bounds it was judged by; nothing where there are none, or no number.
export function bounds(one) {
  const isOpen = one.low === null && one.high === null;
  if (isOpen || one.value === null || one.unit === "yes/no") return null;
  const ends = [one.value, one.low, one.high].filter((end) => end !== null);
  const least = Math.min(...ends);
  const reach = Math.max(...ends) - least || Math.abs(least) || 1;
  const x = (v) => 10 + ((v - least) / reach) * 80;
  const from = one.low === null ? 0 : x(one.low);
  const to = one.high === null ? 100 : x(one.high);
  const edges = [one.low, one.high].filter((end) => end !== null).map((end) => h("path", { class: "edge", d: `M${x(end).toFixed(1)} 2V14` }));
  return h(
    "svg",
    { class: "bounds", viewBox: "0 0 100 16", preserveAspectRatio: "none", role: "img", "aria-label": `${amount(one.value, one.unit)} against ${one.usual}` },
    h("path", { class: "whole", d: "M0 8H100" }),
    h("path", { class: "band", d: `M${from.toFixed(1)} 4H${to.toFixed(1)}V12H${from.toFixed(1)}Z` }),
    edges,
    h("path", { class: "at", d: `M${x(one.value).toFixed(1)} 0V16` }),
  );
}

// One series as lines of a picture, with its limits, what was learnt of it, what was done, and all of it in words.
export function chart(series, marks, from, to) {
  const isYesNo = series.unit === "yes/no";
  const unit = series.unit;
  const name = `${series.subject} ${series.metric}`;
  const points = series.points;
  const seen = points.filter(([, value]) => value !== null);
  if (!seen.length) return h("figure", { key: name, class: "chart" }, h("figcaption", null, h("b", null, name)), h("p", { class: "soft" }, "Nothing was seen of it in this time."));
  const values = seen.map(([, value]) => value);
  const least = values.reduce((a, b) => Math.min(a, b));
  const most = values.reduce((a, b) => Math.max(a, b));
  const last = values[values.length - 1];
  const limits = isYesNo ? [] : series.limits ?? [];
  const band = series.band ?? [];
  // A limit far from all that was seen is said and not drawn: the line would be flat.
  const reach = 3 * Math.max(most - least, Math.abs(most) / 2);
  const near = limits.filter(({ value }) => value > least - reach && value < most + reach).map(({ value }) => value);
  let low = isYesNo ? 0 : Math.min(least, ...near, ...band.map((b) => b[1]));
  let high = isYesNo ? 1 : Math.max(most, ...near, ...band.map((b) => b[2]));
  if (low > 0 && low < high / 2) low = 0;
  if (low === high) [low, high] = low < 0 ? [2 * low, 0] : [0, 2 * high || 1];
  const tall = isYesNo ? 44 : 110;
  const pad = 5;
  const x = (t) => ((t - from) / (to - from || 1)) * WIDE;
  const y = (v) => pad + (1 - (v - low) / (high - low)) * (tall - 2 * pad);
  const spot = (t, v) => `${x(t).toFixed(1)} ${y(v).toFixed(1)}`;

  const pieces = [];
  if (band.length) {
    const edge = [...band.map(([t, l]) => spot(t, l)), ...band.map(([t, , u]) => spot(t, u)).reverse()];
    pieces.push(h("path", { class: "band", d: `M${edge.join("L")}Z` }));
  }
  for (const value of near) pieces.push(h("path", { class: "limit", d: `M0 ${y(value).toFixed(1)}H${WIDE}` }));
  pieces.push(h("path", { class: "line", d: lined(points, isYesNo, spot, x, y) }));
  const inside = marks.map((mark, number) => ({ ...mark, number: number + 1 })).filter((mark) => mark.t >= from && mark.t <= to);
  for (const mark of inside) pieces.push(h("path", { class: `mark ${mark.kind}`, d: `M${x(mark.t).toFixed(1)} 0V${tall}` }));

  // Numbers that would lie upon each other are left out; the list below has all of them.
  let room = -Infinity;
  const flags = inside.filter((mark) => FLAGGED.has(mark.kind) && x(mark.t) - room > WIDE / 35 && ((room = x(mark.t)), true));

  const told =
    `${name}: lowest ${amount(least, unit)}, highest ${amount(most, unit)}, last ${amount(last, unit)}` +
    limits.map((l) => `, well while ${l.op} ${amount(l.value, unit)}`).join("") +
    (inside.length ? `, ${plural(inside.length, "mark")}` : "");
  const every = Math.ceil(points.length / 200);
  return h(
    "figure",
    { key: name, class: "chart" },
    h(
      "figcaption",
      null,
      h("b", null, name),
      h("span", { class: "soft" }, `last ${amount(last, unit)}`),
      limits.length > 0 && h("span", { class: "key limit-key" }, `well while ${limits.map((l) => `${l.op} ${amount(l.value, unit)}`).join(", ")}${near.length < limits.length ? " (outside the picture)" : ""}`),
      band.length > 0 && h("span", { class: "key band-key" }, "usual range, learnt"),
      series.band === null && !isYesNo && h("span", { class: "soft" }, "no usual range learnt yet"),
    ),
    h(
      "div",
      { class: "plot" },
      h(
        "svg",
        { viewBox: `0 0 ${WIDE} ${tall}`, preserveAspectRatio: "none", role: "img", "aria-label": told, style: { height: `${tall}px` } },
        pieces,
      ),
      h("span", { class: "top" }, isYesNo ? "yes" : amount(high, unit)),
      h("span", { class: "bottom" }, isYesNo ? "no" : amount(low, unit)),
      flags.map((mark) =>
        h("span", { key: mark.number, class: "flag", "aria-hidden": "true", style: { left: `${Math.min(98.5, x(mark.t) / 10)}%` }, title: mark.text }, mark.number),
      ),
    ),
    h("div", { class: "axis soft" }, h("span", null, clock(from * 1000)), h("span", null, clock(to * 1000))),
    h(
      "details",
      { key: "numbers" },
      h("summary", null, "Numbers"),
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": `Numbers of ${name}` },
        h(
          "table",
          null,
          h("thead", null, h("tr", null, h("th", { scope: "col" }, "Time"), h("th", { scope: "col" }, "Value"))),
          h(
            "tbody",
            null,
            points
              .filter(([, value], number) => number % every === 0 || value === null || number === points.length - 1)
              .map(([t, value]) => h("tr", null, h("td", null, clock(t * 1000)), h("td", null, value === null ? "not seen" : amount(value, unit)))),
          ),
        ),
        every > 1 && h("p", { class: "soft" }, `Every ${every}th of ${points.length}.`),
      ),
    ),
  );
}

// A yes or no stands until the next look; a number is joined to the next. Where nothing was seen stands a null: no line
// is drawn there, nor behind the last point.
function lined(points, isStep, spot, x, y) {
  let d = "";
  let isSeen = false;
  for (const [t, value] of thinned(points)) {
    if (value !== null) {
      if (!isSeen) d += `M${spot(t, value)}h.1`;
      else if (isStep) d += `H${x(t).toFixed(1)}V${y(value).toFixed(1)}`;
      else d += `L${spot(t, value)}`;
    }
    isSeen = value !== null;
  }
  return d;
}

// More points than the screen has dots: the lowest and the highest of each handful say the same, and every gap stays.
function thinned(points) {
  if (points.length <= MOST * 2) return points;
  const size = Math.ceil(points.length / MOST);
  const kept = [];
  for (let start = 0; start < points.length; start += size) {
    const handful = points.slice(start, start + size);
    const seen = handful.filter(([, value]) => value !== null);
    const low = seen.reduce((a, b) => (b[1] < a[1] ? b : a), seen[0]);
    const high = seen.reduce((a, b) => (b[1] > a[1] ? b : a), seen[0]);
    kept.push(...handful.filter((one) => one[1] === null || one === low || one === high));
  }
  return kept;
}
