// The live page: polls the JSON endpoints of the gateway and draws them by DOM calls, never from markup.
"use strict";
(() => {
const $ = new Proxy({}, { get: (_, id) => document.getElementById(id) });
const all = (selector, node = document) => [...node.querySelectorAll(selector)];

// ---- Elements and text

// Add children to `node`, and attributes by plain objects (functions are handlers, such as onclick).
function fill(node, ...parts) {
  for (const part of parts.flat())
    if (part?.constructor !== Object) node.append(part ?? "");
    else for (const [key, value] of Object.entries(part))
      if (typeof value === "function") node[key] = value;
      else if (value != null && value !== false) node.setAttribute(key, value === true ? "" : value);
  return node;
}
// Tables have explicit roles, because rows that are shown as cards lose theirs.
const ROLES = { table: "table", thead: "rowgroup", tbody: "rowgroup", tr: "row", td: "cell" };
const h = (tag, ...parts) => fill(document.createElement(tag), { role: ROLES[tag] }, ...parts);
const svg = (tag, ...parts) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), ...parts);
const put = (node, text) => node.textContent === text || (node.textContent = text);

// Replace the children of a node only if they differ, and keep the focus in place.
function draw(node, ...parts) {
  const children = parts.flat().filter((part) => part != null);
  const mark = children.map((part) => part.outerHTML || part).join();
  if (node.mark === mark) return;
  node.mark = mark;
  const place = all("button,a", node).indexOf(active());
  node.replaceChildren(...children);
  if (place >= 0) (all("button,a", node)[place] || node).focus();
}

// Replace control and direction characters, which change how other text reads.
const clean = (value) =>
  String(value).replace(/[\0-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, "\ufffd");
// Return an isolated name; a long one is cut, and its title has the whole.
function name(value, most = 60) {
  const text = String(value), long = text.length > most;
  return h("bdi", { title: long && clean(text.slice(0, 9999)) }, clean(text.slice(0, most)) + (long ? "…" : ""));
}

const NONE = "–", encode = encodeURIComponent, active = () => document.activeElement;
const round = (value, most) => value.toLocaleString("en", { maximumFractionDigits: most });
const known = (format) => (value) => (value == null ? NONE : format(+value));
const num = known((value) => (value >= 1e6 ? round(value / 1e6, 2) + " M" : round(value, value < 10 ? 2 : value < 100 ? 1 : 0)));
const share = known((value) => (value > 0 && value < 0.001 ? "<0.1 %" : round(value * 100, 1) + " %"));
const usd = known((value) => round(value, value < 1 ? 4 : 2) + " $");
const span = known((value) => {
  if (value < 1) return round(value * 1000, 0) + " ms";
  if (value < 100) return round(value, 1) + " s";
  if (value < 5400) return round(value / 60, 0) + " min";
  return value < 172800 ? round(value / 3600, 1) + " h" : round(value / 86400, 0) + " d";
});
let skew = 0; // milliseconds that this clock is ahead of the gateway's
const ago = (at) => (Date.now() - skew - Date.parse(at)) / 1000;
const clock = (at) => new Date(at).toLocaleTimeString("en-GB");
function when(at) {
  if (!at) return NONE;
  const text = span(Math.max(1, Math.floor(Math.abs(ago(at)))));
  return h("time", { datetime: at, title: new Date(at).toLocaleString("en-GB") }, ago(at) < 0 ? "in " + text : text + " ago");
}
const KINDS = ["critical", "warning", "info"];
const SHAPES = { critical: "■ ", warning: "▲ ", info: "● ", ok: "✓ " };
const shape = (kind) => h("span", { "aria-hidden": "true" }, SHAPES[kind]);
const plural = (count, noun) => `${num(count)} ${noun}${count === 1 ? "" : "s"}`;
const badge = (kind, label = kind) => h("span", { class: "pill " + kind }, shape(kind), label);
const field = (label, name, value) => h("label", label, h("input", { name, value, maxlength: name === "reason" ? 200 : 1000 }));
const LENGTHS = { 60: "1 minute", 600: "10 minutes", 3600: "1 hour", 14400: "4 hours", 86400: "24 hours" };
const lengths = (least, ...more) => h("label", "For", h("select", { name: "length" }, Object.entries(LENGTHS).filter(([value]) => value >= least).map(([value, label]) => h("option", { value, selected: value === "3600" }, label)), more));
const split = (rows, test) => [rows.filter(test), rows.filter((row) => !test(row))];
const list = (pairs) => pairs.flatMap(([term, value]) => [h("dt", name(term)), h("dd", value.tagName ? value : name(value, 2000))]);

// Return what a storage of the browser keeps, or store it; browsers may forbid that.
function kept(storage, key, value) {
  try {
    if (value != null) window[storage].setItem("tokenpulse-" + key, value);
    return window[storage].getItem("tokenpulse-" + key);
  } catch { return null; }
}

// ---- Requests

let token = kept("sessionStorage", "token") || "";

async function call(method, path, body, headers = {}) {
  // A header has bytes, so the token is sent as its UTF-8.
  if (token) headers.authorization = "Bearer " + String.fromCharCode(...new TextEncoder().encode(token));
  if (body) headers["content-type"] = "application/json";
  let answer, data = null;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", signal: AbortSignal.timeout(15000) });
    data = await answer.json();
  } catch { /* no answer, or one without JSON */ }
  const status = answer?.status || 0;
  if (status === 304 || (answer?.ok && (data || status === 204))) return { data, status, etag: answer.headers.get("etag") };
  let text = data?.detail || (status ? `The gateway answered with status ${status}.` : "The gateway does not answer.");
  if (status === 429) {
    const wait = +answer.headers.get("retry-after") || 60;
    text = `Too many attempts: try again in ${span(wait)}, at ${clock(Date.now() + wait * 1000)}.`;
  }
  throw Object.assign(Error(text), { status, errors: data?.errors || [] });
}
// Send a request of the user; a 401 opens the login form above what is open.
async function send(...request) {
  try {
    return await call(...request);
  } catch (error) {
    if (error.status === 401) {
      login("The token is not accepted.");
      error.message = "Nothing was changed: log in and send it again.";
    }
    throw error;
  }
}
const explain = (error) => clean([error.message, ...(error.errors || []).map(({ loc, msg }) => `${loc.join(".")} ${msg}.`)].join(" "));

function login(text) {
  put($.loginError, text);
  admitted = false;
  if (!$.login.open) $.login.showModal();
}
let admitted = false;
$.login.oncancel = (event) => event.preventDefault();
$.login.onclose = () => admitted || login("");
$.login.onsubmit = async (event) => {
  event.preventDefault();
  const before = token;
  token = $.token.value.trim();
  try {
    await call("GET", "live/state");
  } catch (error) {
    token = before;
    put($.loginError, error.status === 401 ? "This token is not accepted." : explain(error));
    return $.token.select();
  }
  if ($.keep.checked) kept("sessionStorage", "token", token);
  $.token.value = "";
  admitted = true;
  $.login.close();
  tick(true);
};
$.logout.onclick = () => {
  try { sessionStorage.removeItem("tokenpulse-token"); } catch { /* nothing is stored */ }
  location.reload();
};

// ---- Polling

const feeds = [], visible = new Set();
let loading = false, again = "", stopped = false, failures = 0, triedAt = 0, answeredAt = 0;

// Load `path` (text, or a function that returns null for none) every `every` seconds and draw it.
const feed = (section, every, path, show, get = (url, headers) => call("GET", url, null, headers)) => feeds.push({ section, every, path, show, get, at: 0 });
async function load(entry, force) {
  const path = typeof entry.path === "string" ? entry.path : entry.path();
  const every = entry.section === "main" || visible.has(entry.section) ? entry.every : Math.max(30, entry.every);
  const same = path === entry.loaded;
  if (!path || (same && !force && Date.now() - entry.at < every * 1000 - 500)) return;
  const note = $["note-" + entry.section];
  try {
    const answer = await entry.get(path, same && entry.etag ? { "if-none-match": entry.etag } : {});
    if (answer.status !== 304) Object.assign(entry, { data: answer.data, etag: answer.etag });
    entry.show(entry.data, entry.etag);
    if (note && note.from === entry) put(note, "");
  } catch (error) {
    if (!error.status || error.status === 401 || !note) throw error;
    note.from = entry;
    put(note, error.status === 404 ? "Not available in this gateway." : "Not up to date: " + explain(error));
  }
  Object.assign(entry, { at: Date.now(), loaded: path });
}
// Load what is due (all with `force`), one request at a time.
async function tick(force) {
  if (loading) return void (again = force || again === "all" ? "all" : "due");
  loading = document.body.classList.toggle("loading", true);
  again = "";
  triedAt = Date.now();
  try {
    for (const entry of feeds) await load(entry, force);
    failures = 0;
  } catch (error) {
    failures += 1;
    if (error.status === undefined) console.error(error);
    if (error.status === 401) login(token && "The token is no longer accepted. What you have typed is kept.");
    else if (!answeredAt) login(explain(error));
  }
  loading = document.body.classList.toggle("loading", false);
  if (again) tick(again === "all");
  beat();
}
function pausedBy() {
  if (all("dialog[open]").length || active().matches("form :is(input, select)")) return "paused: editing";
  return stopped ? "paused" : +$.every.value ? "" : "paused: off";
}
// Show the age of the data, and load when it is due.
function beat() {
  const paused = pausedBy(), period = +$.every.value;
  const wait = (failures ? Math.min(60, (period || 5) * 2 ** failures) : period) - (Date.now() - triedAt) / 1000;
  put($.paused, paused);
  if (answeredAt) {
    const age = Math.round((Date.now() - answeredAt) / 1000);
    put($.age, `last answer ${age} s ago${failures ? `, next attempt in ${Math.max(0, Math.round(wait))} s` : ""}`);
    const old = age > 3 * (period || 60);
    if (old !== document.body.matches(".stale")) {
      document.body.classList.toggle("stale", old);
      drawProblems();
    }
  }
  if (!loading && !document.hidden && !paused && wait <= 0.1) tick();
}

// ---- Tables

// The end of a path is its format; # is a number.
const FORMATS = [[/#$/, num], [/_share$/, share], [/_seconds$/, span], [/_usd$/, usd], [/(at|since|until)$/, when]];
const look = (row, path) => path.split(".").reduce((value, key) => value?.[key], row);

// Return a table that scrolls on its own if it is wider than its card.
const frame = (caption, kind, ...parts) => h("div", { class: "scroll " + kind, tabindex: 0, role: "region", "aria-label": "Table: " + caption },
  h("table", h("caption", { class: "hide" }, caption), parts));
// Return a function that draws rows in place. `columns` has paths by "|", as "heading:path" if the heading is
// not in the path, or only headings, whose functions of a row are in `cells`. `id` lists the paths of the key.
function table(host, id, columns, empty = "None.", cells = {}, most = 100) {
  const rows = new Map(), body = h("tbody");
  const specs = columns.split("|").map((column) => {
    const [, head, end] = /(?:(.*):)?(.*)/.exec(column), cell = cells[end], path = cell ? null : end.replace("#", "");
    const format = !cell && FORMATS.find(([pattern]) => pattern.test(end))?.[1];
    const title = head || end.replace(/#|_(seconds|share|at)$/, "").replace("_per_minute", "/min").replace(/[._]/g, " ");
    return { title: title[0].toUpperCase() + title.slice(1), path, format, cell, number: format ? "n" : null };
  });
  let sorted = null, down = false, items = [], more = "", none = "";
  const heads = specs.map((spec) => h("th", { scope: "col", role: "columnheader", class: spec.number }, spec.path ? h("button", { onclick: () => sort(spec) }, spec.title) : spec.title));
  const place = $["t-" + host], note = h("p", { class: "note" });
  const caption = all("h2, h3, summary", place.closest("section")).findLast((heading) => heading.compareDocumentPosition(place) & 4).textContent;
  const view = fill(frame(caption, "cards", h("thead", h("tr", heads)), body), { hidden: true });
  place.append(view, note);

  function sort(spec) {
    down = spec === sorted ? !down : spec.number;
    sorted = spec;
    specs.forEach((other, i) => heads[i].setAttribute("aria-sort", other !== spec ? "none" : down ? "descending" : "ascending"));
    render(true);
  }
  function compare(a, b) {
    const x = look(a, sorted.path), y = look(b, sorted.path);
    if (x == null || y == null) return (x == null) - (y == null);
    return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
  }
  function paint(row, item) {
    specs.forEach((spec, i) => {
      const value = spec.path && look(item, spec.path);
      if (value && spec.format !== when && row.values[i] === value) return;
      row.values[i] = value;
      const text = spec.cell ? spec.cell(item) : spec.format ? spec.format(value) : value == null || value === "" ? NONE : name(value);
      draw(row.children[i], text);
    });
  }
  function render(moved) {
    const focused = active(), seen = new Set();
    const still = !moved && body.matches(":hover, :focus-within"); // no row moves under the pointer
    let next = body.firstChild;
    for (const item of (sorted ? [...items].sort(compare) : items).slice(0, most)) {
      const key = id.split(" ").map((path) => item[path]).join("\n");
      if (seen.has(key)) continue;
      seen.add(key);
      let row = rows.get(key);
      if (!row) {
        const cells = specs.map((spec) => h("td", { class: spec.number, "data-label": spec.title }));
        rows.set(key, row = Object.assign(h("tr", { tabindex: -1 }, cells), { values: [], item: {} }));
      }
      paint(row, Object.assign(row.item, item)); // handlers of kept cells see the new values
      if (row === next) next = next.nextSibling;
      else if (!still || !row.isConnected) body.insertBefore(row, still ? null : next);
    }
    for (const [key, row] of rows) if (!seen.has(key)) { row.remove(); rows.delete(key); }
    if (focused !== active()) (focused.isConnected ? focused : view).focus({ preventScroll: true });
    view.hidden = !seen.size;
    put(note, [seen.size ? "" : none, items.length > most ? `${num(items.length - most)} more are not shown.` : "", more].filter(Boolean).join(" "));
  }
  // Show rows, a text below them, and one that is shown without rows.
  return (...update) => {
    [items, more = "", none = empty] = update;
    render(false);
  };
}
// Return the buttons that the user may use, as [label, handler, key].
const buttons = (right, ...specs) => (can(right) ? specs.map(([label, onclick, key]) => h("button", { onclick, "data-key": key }, label)) : NONE);

// ---- Dialog

let run = null;
// Open the dialog; `action` gets the values of its fields, and if it fails all input is kept.
function ask(title, children, label, action) {
  draw($.dialogTitle, title);
  $.dialogBody.replaceChildren(...children.filter(Boolean));
  put($.dialogError, "");
  put($.dialogOk, label || "");
  $.dialogOk.hidden = !label;
  put($.dialogNo, label ? "Cancel" : "Close");
  run = action;
  $.dialog.showModal();
}
$.dialogNo.onclick = () => $.dialog.close();
$.dialog.onsubmit = async (event) => {
  event.preventDefault();
  $.dialogOk.disabled = true;
  try {
    await run(Object.fromEntries(new FormData($.dialogForm)));
    $.dialog.close();
    tick(true);
  } catch (error) { put($.dialogError, explain(error)); }
  $.dialogOk.disabled = false;
};
// Send a change without a dialog.
const change = (...request) => send(...request).then(() => tick(true), (error) => ask("Not done", [h("p", explain(error))]));

// ---- State: header, providers, operations

let state = null, alerts = [], limits = [], rejections = [];
let said = "", saidAt = 0;
const seen = new Map(); // processes that answered in the last minute
const can = (right) => state?.me.can.includes(right);
const shown = (provider) => !$.only.value || provider === $.only.value;
const gravity = ({ rejected }) => (rejected === true || rejected >= 3 ? "critical" : "warning");
const kindOf = (check) => (check.status === "fail" ? "critical" : "warning");
const broken = (credential) => (credential.rejected ? "rejected" : credential.consecutive_failures >= 3 ? "failing" : "");

const TOKENS = "Tokens/min in:tokens_per_minute.input#|Tokens/min out:tokens_per_minute.output#";
const DURATIONS = "Duration p50:p50_seconds|Duration p95:p95_seconds";
const drawProviders = table("providers", "name",
  `Provider:name|requests_per_minute#|Errors:error_share|truncated_share|${DURATIONS}|First token p95:time_to_first_token_p95_seconds|${TOKENS}|429 of vendor/min:limited_by_vendor_per_minute#|429 of us/min:limited_by_us_per_minute#|Upstream requests left:upstream.requests_remaining#|Tokens left:upstream.tokens_remaining#|Credential|Failures in a row:consecutive_failures#|last_success_at|usage_missing_share|Actions`,
  "No provider.", {
    Credential: (p) => (p.credential === "inactive" ? badge("warning", "inactive") : p.credential),
    Actions: (p) => buttons("ack", ["Silence", () => silence({ provider: p.name }), "s"]),
  });
const drawCredentials = table("credentials", "provider group id", "Credential:id|provider|group|State|Failures in a row:consecutive_failures#|last_success_at", "No credential is known.",
  { State: (c) => (broken(c) ? badge(gravity(c), broken(c)) : "ok") });
const drawModels = table("models", "provider name", "Model:name|provider|requests_per_minute#|" + TOKENS);
const drawSinks = table("sinks", "name", "Sink:name|waiting#|Dead letters:dead#|Last delivery:last_ok_at|Actions", "No sink: alerts are only shown here.",
  { Actions: ({ name: sink }) => buttons("thresholds", ["Test", () => ask(["Send a test alert to ", name(sink), "?"], [], "Send", () => send("POST", "alerts/test", { sink }))]) });
const drawChecks = table("checks", "name", "Check:name|Status|output", "No check.",
  { Status: (c) => (c.status === "pass" ? "pass" : badge(kindOf(c), name(c.status))) });
const drawMembers = table("members", "name", "Process:name|host|pid|Role|seen_at", "Only this process.", { Role: (m) => (m.leader ? "leader" : NONE) });

// Return [kind, section, text, subject] of what is wrong, worst first.
function problems({ engine, providers, checks, in_flight, sinks }) {
  const found = [], add = (...problem) => found.push(problem);
  if (engine.store === "failing") add("critical", "operations", "the alert store fails: changes are not kept");
  if (isLate()) add("critical", "operations", "alert rules are not evaluated: no alert can fire or be resolved");
  for (const p of providers) {
    const bad = p.credentials.filter(broken), addOf = (kind, text, id = p.name) => add(kind, "providers", `${p.name} – ${text}`, id);
    for (const c of bad) {
      const times = c.rejected > 1 ? c.rejected : c.consecutive_failures;
      addOf(gravity(c), `credential ${c.id} ${c.rejected ? "rejected" : "failed"} ${times > 1 ? num(times) + " times in a row" : "once"}`, c.id);
    }
    if (p.limited_by_vendor_per_minute >= 10) addOf("warning", `the vendor limits ${num(p.limited_by_vendor_per_minute)} requests a minute`, null);
    if (bad.length) continue;
    if (p.credential === "inactive") addOf("critical", "no active credential");
    else if (p.consecutive_failures >= 5) addOf("critical", `${num(p.consecutive_failures)} failures in a row`);
    else if (p.error_share >= 0.1) addOf("warning", `${share(p.error_share)} of requests fail`);
  }
  const recent = rejections.filter((r) => ago(r.at) < 900), total = (rows) => rows.reduce((count, r) => count + r.count, 0);
  for (const top of new Map(recent.map((r) => [r.policy + "\n" + r.key, r])).values()) {
    const part = total(recent.filter((r) => r.policy === top.policy && r.key === top.key)) / total(recent);
    const kind = limits.find((limit) => limit.policy === top.policy)?.key || "";
    if (part >= 0.5 && total(recent) >= 20) add("warning", "limits", `${/tenant/.test(kind) ? "tenant" : kind} ${top.label} – ${share(part)} of limited requests`);
  }
  for (const a of alerts) if (a.severity === "critical" && !a.silenced_by && !found.some((problem) => problem[3] === a.subject.id)) add("critical", "alerts", a.title);
  for (const c of checks) if (c.status !== "pass") add(kindOf(c), "operations", `check ${c.name} – ${c.status}`);
  if (in_flight.stalled) add("warning", "inflight", `${num(in_flight.stalled)} ${in_flight.stalled > 1 ? "requests in flight have" : "request in flight has"} stalled`);
  for (const s of sinks) if (s.dead) add("warning", "operations", `${s.name} – ${num(s.dead)} notifications not delivered`);
  return found.sort((a, b) => (b[0] === "critical") - (a[0] === "critical"));
}
// Return true if the rules had not been evaluated for long when the gateway last answered.
function isLate() {
  const { last_evaluation_at: last, interval_seconds: interval } = state.engine;
  return interval > 0 && answeredAt - skew - Date.parse(last || state.instance.started_at) > 3000 * interval;
}
// Show what is wrong: the problems, and the worst of them and the gateway's status.
function drawProblems() {
  if (!state) return;
  const { firing, engine } = state, counts = KINDS.filter((kind) => firing[kind]);
  const total = counts.reduce((sum, kind) => sum + firing[kind], 0);
  const found = problems(state), more = found.length - 6, levels = ["ok", "warn", "error"];
  const worst = Math.max(levels.indexOf(state.status), found.length && (found[0][0] === "critical" ? 2 : 1)), level = levels[worst];
  draw($.status, badge(["ok", "warning", "critical"][worst], "status " + level));
  draw($.firing, counts.length ? counts.map((kind) => badge(kind, `${num(firing[kind])} ${kind}`)) :
    !engine.alerts ? "alerts are off" : isLate() ? "alerts are not evaluated" : "no alert fires");
  draw($.problems, found.length ? h("li", plural(found.length, "problem") + ":") :
    h("li", level === "ok" ? badge("ok", "No problem found") : `No problem besides ${plural(total, "alert")}`),
    found.slice(0, 6).map(([kind, section, text]) => h("li", h("a", { href: "#" + section, class: kind }, shape(kind), name(text, 120)))),
    more > 0 ? h("li", `and ${more} more`) : null);
  const title = clean(state.service).slice(0, 60), old = document.body.matches(".stale");
  const icon = old ? "old.svg" : level === "error" ? "alert.svg" : "ok.svg";
  put($.service, title);
  document.title = `${total && !old ? `(${total}) ` : ""}${title} – ${old ? "not up to date" : firing.critical ? "critical" : level}`;
  if ($.icon.getAttribute("href") !== icon) $.icon.href = icon;
  const words = `Status ${level}, ${plural(total, "alert")} firing.`;
  if (words !== said && Date.now() - saidAt > 30000) {
    put($.said, said && words);
    [said, saidAt] = [words, Date.now()];
  }
}
function scope({ scope: { kind, processes, missing }, instance }) {
  seen.set(instance.id, { at: Date.now(), age: ago(instance.started_at) });
  for (const [id, { at }] of seen) if (Date.now() - at > 60000) seen.delete(id);
  // Until the user chooses, the charts have the time since the start; other processes may be older.
  const age = kind === "process" || processes === 1 ? Math.max(...[...seen.values()].map((process) => process.age)) : Infinity;
  if (!ranged) $.range.value = [900, 1800].find((seconds) => age <= seconds) || 3600;
  put($.banner, missing ? `Processes that do not report: ${num(missing)}. The numbers are without them.` :
    kind === "process" && seen.size > 1 ? `Several processes answer: each number is of one of ${seen.size} seen.` : "");
  return kind === "process" ? "this process only" : `all ${num(processes)} ${kind === "machine" ? "workers of this machine" : "processes that share the store"}`;
}
function drawState(data) {
  if (data !== state) skew = Date.now() - Date.parse(data.at);
  state = data;
  answeredAt = Date.now();
  all("body > [hidden]").forEach((element) => (element.hidden = false));
  for (const element of all("[data-right]")) element.hidden = !can(element.dataset.right);
  $.logout.hidden = !token;
  const { rates, instance, engine, providers, faults } = data;
  draw($.tiles, [["Requests/s", num(rates.requests_per_second)], ["Errors", share(rates.error_share)], ["Limited/min", num(rates.limited_per_minute)],
    ["Tokens in/min", num(rates.tokens_per_minute?.input)], ["Tokens out/min", num(rates.tokens_per_minute?.output)], ["In flight", num(data.in_flight.count)],
    ["Oldest", span(data.in_flight.oldest_seconds)], ["Cost today (UTC)", usd(rates.cost_usd_today)],
    ["Failures a minute by fault", ["provider", "gateway", "network", "policy", "client"].map((fault) => `${fault} ${num(faults[fault])}`).join(" · ")],
  ].map(([term, value]) => h("div", h("dt", term), h("dd", value))));
  draw($.origin, `Rates of the last minute, of ${scope(data)}. Answered by `, name(instance.host), ` process ${instance.pid}, version `, name(instance.version), ", started ", when(instance.started_at),
    engine.alerts ? ". Rules evaluated " : ". Alerts are off", engine.alerts ? when(engine.last_evaluation_at) : null, `. Store: ${engine.store === "none" ? "memory" : engine.store}.`);
  drawProblems();
  const chosen = providers.filter((p) => shown(p.name));
  const parts = (key) => chosen.flatMap((p) => p[key].map((part) => ({ ...part, provider: p.name })));
  const before = $.only.value;
  draw($.only, h("option", { value: "" }, "all providers"), providers.map((p) => h("option", { value: p.name }, clean(p.name).slice(0, 60))));
  $.only.value = before;
  drawProviders(chosen);
  drawCredentials(parts("credentials").sort((a, b) => !!b.rejected - !!a.rejected || b.consecutive_failures - a.consecutive_failures));
  drawModels(parts("models"));
  drawSinks(data.sinks);
  drawChecks(data.checks);
  drawMembers(data.members || []);
  if ($.level.was !== data.log_level) $.level.value = $.level.was = data.log_level;
  draw($.facts, list([["Internal errors", num(data.internal_errors)], ["Series overflow", num(data.series_overflow)], ["Log level", data.log_level || NONE]]));
}

// ---- Alerts

let history = [], since = 0, others = [], cut = false;
const subject = ({ subject: { kind, id, name: label } }) => `${{ master: "tenant", apikey: "credential" }[kind] || kind} ${id} ${label && label !== id ? `(${label})` : ""}`;
const status = (a) => [a.state, a.ack && `acknowledged by ${a.ack.by}`, a.silenced_by && "silenced"].filter(Boolean).join(", ");
const labels = (a) => ({ alertname: a.type, subject_kind: a.subject.kind, subject_id: a.subject.id, metric: a.metric });

// Return 24 blocks, one an hour: fired, quiet or unknown.
function blocks(alert) {
  const hour = (at) => 23 - Math.floor(ago(at) / 3600), episodes = [alert, ...history].filter((a) => a.fingerprint === alert.fingerprint && a.fired_at);
  const hours = Array.from({ length: 24 }, (_, i) => (episodes.some((a) => i >= hour(a.fired_at) && i <= (a.resolved_at ? hour(a.resolved_at) : 23)) ? "fired" : i <= hour(since) ? "unknown" : "quiet"));
  return svg("svg", { class: "blocks", viewBox: "0 0 96 12", role: "img", "aria-label": `fired in ${hours.filter((kind) => kind === "fired").length} of 24 hours` },
    hours.map((kind, i) => svg("rect", { class: kind, x: i * 4, y: kind === "fired" ? 0 : 8, width: 3, height: kind === "fired" ? 12 : 4 })));
}
const drawTable = table("alerts", "id", "Severity|Alert|Subject|value#|Threshold:metadata.threshold#|since|State|24 h|Actions", "No alert matches.", {
  Severity: (a) => badge(a.severity),
  Alert: (a) => [h("button", { class: "link", "data-key": "Enter", onclick: () => details(a) }, name(a.title, 90)), h("small", name(a.message, 160))],
  Subject: (a) => name(subject(a)),
  State: (a) => name(status(a)),
  "24 h": blocks,
  Actions: (a) => (a.state === "resolved" ? NONE : buttons("ack",
    a.ack ? ["Unack", () => change("POST", `alerts/${a.id}/unack`), "a"] : ["Ack", () => acknowledge(a), "a"],
    ["Silence", () => silence(labels(a)), "s"])),
}, 200);
function drawAlerts() {
  const wanted = $.find.value.toLowerCase(), chosen = $.state.value === "active" ? alerts : others;
  drawTable([...chosen].sort((a, b) => KINDS.indexOf(a.severity) - KINDS.indexOf(b.severity)).filter((a) => (!$.severity.value || a.severity === $.severity.value) && (!$.only.value || JSON.stringify(a).includes($.only.value)) &&
    [a.title, a.message, a.type, a.subject.kind, a.subject.id, a.subject.name].join("\n").toLowerCase().includes(wanted)),
    cut && chosen === alerts ? "Only the newest 200 alerts are listed." : "",
    alerts.length || chosen === others ? undefined : state && isLate() ? "No alert fired when the rules were last evaluated." : "No alert fires.");
}
function acknowledge(alert) {
  ask(["Acknowledge: ", name(alert.title)], [h("p", "No more reminders of it are sent."), field("Note", "note")], "Acknowledge", (values) => send("POST", `alerts/${alert.id}/ack`, values));
}
const LABELS = ["alertname", "subject_kind", "subject_id", "metric", "provider", "severity"];
// Ask for a silence whose matchers are filled in with `values`.
function silence(values) {
  const end = h("input", { type: "datetime-local", name: "end", "aria-label": "End", hidden: true });
  const length = lengths(3600, h("option", { value: "" }, "until"));
  length.onchange = (event) => (end.hidden = event.target.value);
  ask("Silence alerts", [h("p", { class: "note" }, "All labels below must match; an empty one is ignored. Begin with ~ for a regular expression."),
    h("div", { class: "grid" }, LABELS.map((label) => field(label, label, values[label]))), h("div", { class: "row" }, length, end), field("Comment", "comment")], "Silence", (input) =>
    send("POST", "alerts/silences", {
      matchers: LABELS.filter((label) => input[label]).map((label) => ({ name: label, value: input[label].replace(/^~/, ""), is_regex: input[label][0] === "~" })),
      comment: input.comment, ...(input.length ? { duration: +input.length } : { ends_at: new Date(input.end || 0).toISOString() }),
    }));
}
async function details(alert) {
  const { runbook_url: link, ...metadata } = alert.metadata, steps = h("ol");
  ask([badge(alert.severity), " ", name(alert.title, 200)], [h("p", name(alert.message, 2000)), /^https?:/.test(link) && h("p", h("a", { href: link, rel: "noreferrer" }, "Runbook")),
    h("dl", list([["type", alert.type], ["subject", [alert.subject.kind, alert.subject.id, alert.subject.name].join(" ")], ["state", status(alert)], ["note", alert.ack?.note || NONE],
      ...Object.entries(metadata).map(([key, value]) => [key, value && typeof value === "object" ? JSON.stringify(value) : String(value)])])), h("h3", "Transitions"), steps]);
  try {
    const { data } = await send("GET", "alerts/" + alert.id);
    draw(steps, data.transitions.map((t) => h("li", `${t.transition} `, when(t.at), `, ${t.severity}, value ${num(t.value)}`)));
  } catch (error) { put(steps, explain(error)); }
}

// ---- Last hour

// Charts: series, title, and per-name counts (factor to the unit), "total", "one" or seconds.
const CHARTS = [["requests", "Requests/s", 1], ["errors", "Errors/min", 60], ["limited", "Limited/min", 60], ["tokens", "Tokens/min", "total"], ["cost_usd", "Cost/min", 60],
  ["in_flight", "In flight", "one"], ["ttft_p50", "First token p50", "seconds"], ["ttft_p95", "First token p95", "seconds"], ["duration_p95", "Duration p95", "seconds"]];
const W = 300, H = 80;
let series = null, size = 0, ranged = false;
const sum = (lists) => (lists[0] || []).map((_, i) => lists.reduce((total, values) => (values[i] == null ? total : (total || 0) + values[i]), null));

// Return [label, values] of a chart: five names with the most requests, and the sum of the others.
function linesOf(data, key, kind) {
  const of = (which, factor = 1) => (i) => data.series[which][i].map((value) => (value == null ? null : (value * factor) / (kind === "seconds" ? 1 : data.step_seconds)));
  const requests = data.names.map((_, i) => data.series.requests[i].reduce((total, value) => total + value, data.names[i] === "__others__" ? -1e12 : 0));
  const names = data.names.map((_, i) => i).filter((i) => $.by.value !== "provider" || shown(data.names[i])).sort((a, b) => requests[b] - requests[a]);
  if (kind === "one") return [["all", data.series[key]]];
  if (kind === "total") return ["input", "output"].map((label) => [label, sum(names.map(of(label + "_tokens", 60)))]);
  const values = of(key, kind === "seconds" ? 1 : kind), lines = names.slice(0, 5).map((i) => [data.names[i], values(i)]);
  if (kind !== "seconds" && names.length > 5) lines.push(["others", sum(names.slice(5).map(values))]);
  return lines;
}
const across = (index) => ((index * W) / (size - 1 || 1)).toFixed(1);
// Return the path of a line that breaks at each gap, or of the area below it.
function pathOf(values, max, isArea) {
  let path = "", run = [];
  values.forEach((value, i) => {
    if (value != null) run.push(`${across(i)} ${(H - (value / max) * (H - 4)).toFixed(1)}`);
    if (!run.length || (value != null && i < size - 1)) return;
    path += "M" + run.join("L") + (isArea ? `V${H}H${run[0].split(" ")[0]}Z` : "h.1");
    run = [];
  });
  return path;
}
// Return for each line the sums of its values and those of the lines before it.
function stack(lines) {
  const sums = Array(size).fill(0);
  return lines.map(([, values]) => values.map((value, i) => (value == null ? null : (sums[i] += value))));
}
const charts = CHARTS.map(([key, title, kind]) => {
  const paths = (kind) => Array.from({ length: 6 }, (_, i) => svg("path", { class: `${kind} s${i}` }));
  const areas = key === "requests" ? paths("area") : [], curves = paths("curve"), mark = svg("path", { class: "mark" }), at = svg("path", { class: "at" });
  const plot = svg("svg", { class: "plot", viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img" }, [...areas].reverse(), curves, mark, at);
  plot.onpointerleave = () => drawCursor(1e9);
  plot.onpointermove = ({ clientX }) => {
    const { left, width } = plot.getBoundingClientRect();
    drawCursor(Math.round(((clientX - left) / width) * (size - 1)));
  };
  const peak = h("small"), legend = h("ul"), times = [h("span"), h("span"), h("span")];
  $.charts.append(h("figure", h("figcaption", title, peak), plot, h("p", { class: "times", "aria-hidden": "true" }, times), legend));
  const format = kind === "seconds" ? span : key === "cost_usd" ? usd : num;
  return { key, title, kind, plot, areas, curves, mark, at, peak, times, legend, format, lines: [] };
});
const timeOf = (index) => clock(Date.parse(series.from) + index * series.step_seconds * 1000);
function drawCursor(at = $.cursor.value) {
  $.cursor.value = at;
  const index = +$.cursor.value, last = index >= size - 1;
  put($.cursorAt, series ? (last ? "latest, " : "") + timeOf(index) : "");
  for (const { at, legend, lines, format } of charts) {
    at.setAttribute("d", last ? "" : `M${across(index)} 0V${H}`);
    lines.forEach(([, values], i) => put(legend.children[i].lastChild, format(values[index])));
  }
}
function drawSeries(data) {
  const follow = +$.cursor.value >= +$.cursor.max, from = Date.parse(data.from), marks = data.marks.filter((mark) => Date.parse(mark.at) >= from).slice(-50);
  const stepOf = ({ at }) => Math.min(size - 1, (Date.parse(at) - from) / 1000 / data.step_seconds);
  series = data;
  size = data.series.in_flight.length;
  $.cursor.max = size - 1;
  if (follow) $.cursor.value = size - 1;
  for (const chart of charts) {
    const lines = (chart.lines = linesOf(data, chart.key, chart.kind)), stacked = chart.areas.length > 0;
    const levels = stacked ? stack(lines) : lines.map(([, values]) => values);
    const values = levels.flat().filter((value) => value != null), max = Math.max(...values, 0);
    put(chart.peak, values.length ? (stacked ? "stacked, max " : "max ") + chart.format(max) : "no data");
    for (const paths of [chart.areas, chart.curves])
      paths.forEach((path, i) => path.setAttribute("d", levels[i] ? pathOf(levels[i], max || 1, paths === chart.areas) : ""));
    chart.mark.setAttribute("d", marks.map((mark) => `M${across(stepOf(mark))} 0V${H}`).join(""));
    chart.times.forEach((time, i) => put(time, timeOf(((size - 1) * i) / 2).slice(0, 5)));
    const legend = lines.map(([label], i) => h("li", svg("svg", { class: "swatch", viewBox: "0 0 16 4", "aria-hidden": "true" }, svg("path", { class: "curve s" + i, d: "M0 2H16" })), name(label, 22), h("b")));
    draw(chart.legend, legend);
    chart.plot.setAttribute("aria-label", `${chart.title}: ${lines.map(([label, values]) => `${clean(label).slice(0, 40)} ${chart.format(values.at(-1))}`).join(", ") || "no data"}`);
  }
  draw($.marks, marks.slice(-6).map((mark) => h("li", `${clock(mark.at)} ${mark.kind}: `, name(mark.text, 100))));
  drawCursor();
  drawNumbers();
}
function drawNumbers() {
  if (!$.numbers.open || !series) return;
  const columns = charts.flatMap((chart) => chart.lines.map(([label, values]) => [`${chart.title} ${clean(label).slice(0, 22)}`, (i) => chart.format(values[i])]));
  const head = (text, scope) => h("th", { scope, class: "n" }, text);
  const line = (i) => h("tr", head(timeOf(i), "row"), columns.map(([, value]) => h("td", { class: "n" }, value(i))));
  $.tNumbers.replaceChildren(frame("Numbers of the charts", "tall", h("thead", h("tr", ["Time", ...columns.map(([label]) => label)].map((label) => head(label, "col")))),
    h("tbody", Array.from({ length: size }, (_, i) => line(size - 1 - i)))));
}

// ---- Limits

const rate = (limit) => (limit == null ? "by function" : typeof limit === "string" ? limit : Object.entries(limit).map(([plan, value]) => `${plan}: ${value || "no limit"}`).join(", "));
const drawLimits = table("limits", "policy", "policy|Limit|unit|key|Mode|storage|keys#|max_keys#|evictions#", "No limit.",
  { Limit: (l) => name(rate(l.limit)), Mode: (l) => (l.blocked ? badge("warning", "blocks all") : l.enforced ? "enforced" : "shadow") });
function bar(used) {
  return svg("svg", { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img", "aria-label": share(used) + " used" },
    svg("rect", { class: "track", width: 100, height: 8 }), svg("rect", { class: used >= 1 ? "full" : "part", width: Math.min(100, used * 100).toFixed(1), height: 8 }));
}
const drawKeys = table("keys", "policy key", "Key:label|policy|Use|used#|limit#|remaining#|resets_at|blocked_until|Actions", "No key is near its limit.", {
  Use: (k) => (k.used == null || !k.limit ? NONE : [bar(k.used / k.limit), " " + share(k.used / k.limit)]),
  Actions: (k) => buttons("limits", ["Reset", () => changeKey(k, "Reset", "POST", "reset")],
    k.blocked_until && ago(k.blocked_until) < 0 ? ["Unblock", () => changeKey(k, "Unblock", "DELETE", "block")] : ["Block", () => changeKey(k, "Block", "PUT", "block")]),
});
const drawRejections = table("rejections", "policy key route at", "When:at|Key:label|policy|route|Times:count#|Actions", "No request was limited.",
  { Actions: (r) => buttons("limits", ["Block", () => changeKey(r, "Block", "PUT", "block")]) }, 50);
const EFFECTS = { Reset: "What this key has used is forgotten. That cannot be undone.", Block: "Every request of this key is rejected by the policy.", Unblock: "The key has its limit again." };
function changeKey(row, label, method, what) {
  ask([label + " ", name(row.label), " of ", name(row.policy), "?"], [h("p", EFFECTS[label]), label === "Block" && lengths(60), label !== "Unblock" && field("Reason", "reason")], label, ({ length, reason }) =>
    send(method, `limits/${encode(row.policy)}/keys/${encode(row.key)}/${what}`, reason == null ? null : { seconds: length && +length, reason }));
}
let looked = "";
function lookUp(event) {
  event.preventDefault();
  looked = event.type === "submit" ? $.lookupQ.value.trim() : $.lookupQ.value = "";
  $.lookupEnd.hidden = !looked;
  tick(true);
}
$.lookup.onsubmit = $.lookupEnd.onclick = lookUp;
async function loadKeys() {
  const keys = [];
  let local = false;
  for (const { policy } of limits.slice(0, 20)) try {
    const { data } = await call("GET", `limits/${encode(policy)}/keys?limit=20&${looked ? "near=0&q=" + encode(looked) : "near=0.8"}`);
    keys.push(...data.keys.map((key) => ({ ...key, policy })));
    local = local || data.local;
  } catch (error) { if (error.status !== 404) throw error; }
  return { data: { keys, local } };
}

// ---- Thresholds

const UNITS = { "requests/s": "qps", "a minute": "rpm|_1m", "tokens/min": "tpm", "requests a day": "rpd", "tokens a day": "tpd", seconds: "window|hold|firing|p95", share: "rate|warning|ratio", times: "factor" };
const fields = {};
let current = {}, tag = null, schema = {};
const plain = (value) => (value == null ? "off" : String(value));
const read = (input) => (input.type === "checkbox" ? input.checked : input.value === "" ? null : +input.value);
function write(key, value) {
  const { input } = fields[key];
  if (input.type === "checkbox") input.checked = value;
  else input.value = value ?? "";
}
function createFields(values) {
  for (const key of Object.keys(values)) {
    const rule = schema[key] || {}, off = [rule.type].flat().includes("null"), flag = typeof values[key] === "boolean";
    const unit = Object.keys(UNITS).find((unit) => RegExp(`(${UNITS[unit]})$`).test(key)), { minimum: least, exclusiveMinimum: above, maximum: most } = rule;
    const range = [above != null ? "above " + above : least != null ? "from " + least : "", most < 1e15 ? "to " + most.toLocaleString("en") : ""].join(" ");
    const note = [unit, range.trim(), "default" in rule && "default " + plain(rule.default), off && "empty: off"].filter(Boolean).join(", ");
    const error = h("small", { class: "critical" });
    const input = h("input", { type: flag ? "checkbox" : "number", step: "any", placeholder: off && "off", disabled: !can("thresholds"), "aria-describedby": "about-" + key });
    fields[key] = { input, error };
    $.fields.append(h("div", { class: "field" }, h("label", { title: key }, h("span", key.replace("master", "tenant").replaceAll("_", " ")), input), h("small", { id: "about-" + key }, note, error)));
  }
}
const changes = () => Object.fromEntries(Object.entries(fields).map(([key, { input }]) => [key, read(input)]).filter(([key, value]) => value !== current[key]));
const isDirty = () => Object.keys(changes()).length > 0;
function edited() {
  $.save.disabled = true;
  $.discard.disabled = !isDirty();
}
// Show a text, lists of items by heading, and the errors of the fields.
function outcome(text, lists = {}, error = { errors: [] }) {
  for (const [key, entry] of Object.entries(fields)) {
    const fault = error.errors.find(({ loc }) => loc.at(-1) === key);
    put(entry.error, fault ? " " + clean(fault.msg) : "");
    fill(entry.input, { "aria-invalid": `${!!fault}` });
  }
  const more = ({ length }) => (length > 50 ? [`and ${num(length - 50)} more`] : []);
  draw($.outcome, h("p", text), Object.entries(lists).flatMap(([heading, items]) =>
    [h("h3", `${heading}: ${num(items.length)}`), h("ul", [...items.slice(0, 50), ...more(items)].map((item) => h("li", item)))]));
}
// Show the thresholds of the gateway; edited fields keep what was typed.
function drawThresholds(data, etag) {
  if (!tag) createFields(data.thresholds);
  draw($.version, ...(data.version ? [`Version ${data.version}, by `, name(data.updated_by), ", ", when(data.updated_at), "."] : ["As configured."]));
  if (etag === tag) return;
  const mine = tag ? changes() : {}, before = current;
  [current, tag] = [data.thresholds, etag];
  for (const key of Object.keys(fields)) if (!(key in mine)) write(key, current[key]);
  edited();
  if (isDirty()) outcome("The thresholds have changed meanwhile. What you typed is kept; do the dry run again.",
    { "Changed values": Object.keys(mine).filter((key) => before[key] !== current[key])
      .map((key) => `${key}: yours ${plain(mine[key])}, now ${plain(current[key])}`) });
}
$.form.oninput = edited;
$.form.onsubmit = async (event) => {
  event.preventDefault();
  const wanted = changes();
  try {
    const evaluate = async (body) => (await send("POST", "alerts/evaluate", body)).data;
    const { findings, errors } = await evaluate({ thresholds: wanted }), unchanged = (await evaluate()).findings;
    const { alerts: now, next } = (await send("GET", "alerts?state=active&limit=1000")).data;
    const [firing, found, foundNow] = [now, findings, unchanged].map((rows) => new Set(rows.map((row) => row.fingerprint)));
    const failed = ({ rule }) => errors.some(({ component }) => component === "rule " + rule); // its alerts stay as they are
    const fresh = findings.filter((finding) => finding.severity && !firing.has(finding.fingerprint));
    const [kept, gone] = split(now, (alert) => found.has(alert.fingerprint) || failed(alert));
    const [resolved, ending] = split(gone, (alert) => foundNow.has(alert.fingerprint));
    const item = ({ severity, title, message, hold_for: hold }) =>
      [badge(severity), " ", name(title, 100), " – ", name(message, 160), hold ? ` (after ${span(hold)})` : ""];
    outcome(`With these values, compared with the ${next ? "newest 1,000 alerts" : "alerts"} that fire now:`, {
      "Would newly fire": fresh.map(item),
      "Would keep firing": kept.map(item),
      "Would be resolved": resolved.map(item),
      ...(ending.length && { "Would be resolved with the current values too": ending.map(item) }),
      ...(errors.length && { "Not evaluated": errors.map(({ component, error }) => name(`${component} failed: ${error}`, 300)) }),
    });
    $.save.disabled = !isDirty() || JSON.stringify(wanted) !== JSON.stringify(changes());
  } catch (error) { outcome(explain(error), {}, error); }
};
$.save.onclick = async () => {
  try {
    const { data, etag } = await send("PATCH", "alerts/thresholds", { thresholds: changes() }, { "if-match": tag });
    [current, tag] = [data.thresholds, etag];
    edited();
    outcome(`Saved as version ${data.version}.`);
    tick(true);
  } catch (error) {
    outcome(explain(error), {}, error);
    if (error.status === 412) await tick(true);
  }
};
$.discard.onclick = () => {
  for (const key of Object.keys(fields)) write(key, current[key]);
  edited();
  outcome("");
};
window.onbeforeunload = (event) => { if (isDirty()) event.preventDefault(); };
const drawVersions = table("versions", "version", "version#|When:updated_at|By:updated_by|Changes|Actions", "No version was saved.", {
  Changes: (v) => name(v.changes || NONE, 300),
  Actions: (v) => buttons("thresholds", ["Put back", () => {
    for (const key of Object.keys(fields)) if (key in v.thresholds) write(key, v.thresholds[key]);
    edited();
    outcome(`The form has the values of version ${v.version}: do the dry run, then save.`);
    $.dry.focus();
  }]),
});
$.levelForm.onsubmit = (event) => {
  event.preventDefault();
  change("PUT", "settings", { log_level: $.level.value });
};

// ---- Feeds, in the order of the requests

// A feed that fills one table with the list `key` of the answer.
const rows = (section, every, path, key, update) => feed(section, every, path, (data) => update(data[key]));
// The same, loaded while the part `id` is open.
const opened = (id, section, path, key, update) => {
  $[id].ontoggle = () => tick();
  rows(section, 15, () => ($[id].open ? path : null), key, update);
};
feed("main", 0, "live/state", drawState);
feed("alerts", 0, "alerts?state=active&limit=200", (data) => {
  const fresh = data.alerts.find((a) => a.severity === "critical" && !alerts.some((old) => old.id === a.id));
  if (fresh && since !== 0) put($.alarm, "New critical alert: " + clean(fresh.title).slice(0, 200));
  alerts = data.alerts;
  cut = !!data.next;
  drawAlerts();
  drawProblems();
});
feed("alerts", 5, () => ($.state.value === "active" ? null : `alerts?state=${$.state.value}&limit=200`), (data) => { others = data.alerts; drawAlerts(); });
feed("alerts", 60, "alerts?state=resolved&limit=200", (data) => {
  history = data.alerts;
  since = data.next ? history.at(-1).started_at : 1;
  drawAlerts();
});
feed("limits", 15, "limits", (data) => { limits = data.limits; drawLimits(limits); });
feed("limits", 10, "limits/rejections?limit=200", (data) => {
  rejections = data.rejections;
  const several = data.local && (state.scope.processes > 1 || seen.size > 1);
  drawRejections(rejections, several ? "Only those of the process that answered." : "");
  drawProblems();
});
feed("hour", 15, () => `live/series?by=${$.by.value}&range=${$.range.value}`, drawSeries);
rows("routes", 5, "live/routes?limit=50&sort=requests", "routes",
  table("routes", "route", `route|requests_per_minute#|Errors:error_share|${DURATIONS}|limited_per_minute#`, "No request."));
feed("limits", 10, () => (limits.length ? "keys " + looked : null), ({ keys, local }) =>
  drawKeys(keys, local ? "Only keys that this process has seen." : "", looked ? "No key matches." : undefined), loadKeys);
let page = "", following = null;
function turn(cursor) {
  page = cursor;
  tick();
}
$.tenantNext.onclick = () => turn(following);
$.tenantFirst.onclick = $.tenantQ.oninput = () => turn("");
const drawTenants = table("tenants", "id", "Tenant:name|id|Metered requests:requests#|input_tokens#|output_tokens#|Cost:cost_usd", "No tenant.");
feed("tenants", 30, () => `live/tenants?limit=50&q=${encode($.tenantQ.value.trim())}${page && "&cursor=" + encode(page)}`, (data) => {
  following = data.next;
  $.tenantNext.disabled = !following;
  $.tenantFirst.disabled = !page;
  drawTenants(data.tenants);
});
const drawInflight = table("inflight", "id", "age_seconds|Since last byte:idle_seconds|State|route|provider|model|Tenant:tenant_name|credential|output_tokens#|id", "No request is in flight.",
  { State: (r) => (r.stalled ? badge("warning", "stalled") : r.first_byte ? "streams" : "waits") });
feed("inflight", 0, "live/inflight?limit=100", (data) => drawInflight(data.requests.filter((r) => shown(r.provider)).map((r) => ({ ...r, tenant_name: r.tenant_name || r.tenant })),
  data.count > data.requests.length ? `The oldest ${data.requests.length} of ${num(data.count)}.` : ""));
rows("operations", 15, "alerts/silences", "silences", table("silences", "id", "Alerts with|starts_at|ends_at|By:created_by|comment|Actions", "No silence.", {
  "Alerts with": (s) => name(s.matchers.map((m) => `${m.name} ${m.is_equal ? "=" : "!"}${m.is_regex ? "~" : m.is_equal ? "" : "="} ${m.value}`).join(", "), 200),
  Actions: (s) => buttons("ack", ["End", () => ask("End this silence?", [h("p", "Alerts that still fire are reported then.")], "End", () => send("DELETE", "alerts/silences/" + s.id))]),
}));
feed("thresholds", 600, "alerts/openapi.json", (data) => { schema = data.components.schemas.SomeThresholdsBody.properties.thresholds.properties; });
feed("thresholds", 15, "alerts/thresholds", drawThresholds);
opened("versions", "thresholds", "alerts/thresholds/history?limit=20", "versions", (versions) => drawVersions(versions.map((version, i) => {
  const now = version.thresholds, old = versions[i + 1]?.thresholds || now;
  return { ...version, changes: Object.keys(now).filter((key) => now[key] !== old[key]).map((key) => `${key}: ${plain(old[key])} → ${plain(now[key])}`).join(", ") };
})));
opened("done", "limits", "limits/actions", "actions", table("actions", "at what policy key", "When:at|by|what|policy|Key:label|reason"));
opened("dead", "operations", "alerts/deliveries/dead?limit=50", "dead_letters", table("dead", "id sink", "When:at|sink|Alert:fingerprint|attempts#|error"));

// ---- Controls and keys

$.find.oninput = $.severity.onchange = drawAlerts;
$.only.onchange = () => feeds.forEach(({ data, section, show }) => data && section !== "thresholds" && show(data));
$.state.onchange = () => { others = []; drawAlerts(); tick(); };
$.range.oninput = () => (ranged = true);
$.range.onchange = $.by.onchange = () => { $.cursor.value = 1e9; tick(); };
$.cursor.oninput = () => drawCursor();
$.numbers.ontoggle = drawNumbers;
$.refresh.onclick = () => tick(true);
$.newSilence.onclick = () => silence({});
$.pause.onclick = () => {
  stopped = !stopped;
  $.pause.setAttribute("aria-pressed", stopped);
  beat();
};
const setTheme = () => (document.documentElement.dataset.theme = $.theme.value);
for (const control of [$.theme, $.every]) {
  control.value = kept("localStorage", control.id) || control.value;
  control.onchange = () => { kept("localStorage", control.id, control.value); setTheme(); beat(); };
}
setTheme();
$.help.onclick = () => {
  const keys = h("input", { type: "checkbox", checked: kept("localStorage", "keys") !== "off", onchange: () => kept("localStorage", "keys", keys.checked ? "on" : "off") });
  const { name: user = "", can: rights = [] } = state?.me || {};
  ask("Help", [h("label", { class: "check" }, keys, "single keys"), h("dl", list(Object.entries(KEYS).map(([key, [text]]) => [key, text]))),
    h("p", { class: "note" }, "“–” is unknown, and a break in a line is a gap. “Master” in an alert or a label is the tenant."),
    h("p", { class: "note" }, "You are ", name(user || "not named"), `, with the rights: ${rights.join(", ") || NONE}.`)]);
};
function step(by) {
  const lines = all("main tr[tabindex]").filter((row) => row.offsetParent), place = lines.indexOf(active().closest("tr"));
  (lines[place < 0 ? 0 : place + by] || active()).focus();
}
function press(key) {
  active().closest("tr")?.querySelector(`[data-key="${key}"]`)?.click();
}
// Keys with the text of the help and the command.
const KEYS = {
  "?": ["this help", () => $.help.click()],
  "/": ["filter alerts", () => $.find.focus()],
  r: ["pause or continue", () => $.pause.click()],
  ".": ["refresh", () => tick(true)],
  t: ["theme", () => { $.theme.selectedIndex = ($.theme.selectedIndex + 1) % 3; $.theme.onchange(); }],
  j: ["next row", () => step(1)],
  k: ["previous row", () => step(-1)],
  Enter: ["open the row", press],
  a: ["acknowledge", press],
  s: ["silence", press],
  "1 – 9": ["section"],
  Esc: ["close"],
};
window.onkeydown = (event) => {
  const { key, target } = event, field = target.matches("input, select");
  if (event.ctrlKey || event.altKey || event.metaKey || all("dialog[open]").length || kept("localStorage", "keys") === "off") return;
  if (field && key === "Escape") target.blur();
  const command = /^[1-9]$/.test(key) ? () => all("h2", $.main)[key - 1].focus() : KEYS[key]?.[1];
  if (field || !command || (key === "Enter" && !target.matches("tr"))) return;
  event.preventDefault();
  command(key);
};
const watch = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => visible[isIntersecting ? "add" : "delete"](target.id)));
all("main > section").forEach((section, i) => {
  const heading = fill(section.querySelector("h2"), { id: section.id + "-title", tabindex: -1 });
  section.setAttribute("aria-labelledby", heading.id);
  heading.after(h("p", { class: "banner", id: "note-" + section.id }));
  $.nav.append(h("a", { href: "#" + section.id }, h("kbd", i + 1), heading.textContent));
  watch.observe(section);
});
document.onvisibilitychange = beat;
setInterval(beat, 1000);
tick();
})();
