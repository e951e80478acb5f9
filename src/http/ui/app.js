// The views of the page and the way between them. An address is #/view/name?choice=…: it never has
// a token.

import {
  alertOf, api, ask, begin, button, bytes, count, duration, facts, grid, h, pager, refusal, repeat, setToken, show, state,
  time, token,
} from "./page.js";
import { connect, tryIt } from "./connect.js";

/** Rows of a page of a list. */
const PAGE = 100;
/** Tables that are looked at for what is wrong. */
const SEEN_MAX = 1000;
/** Records that a live view keeps. */
const LIVE_MAX = 100;
/** A table is late after so many times its target lag, which is a minute where it is not told. */
const LATE_LAGS = 2;

const main = document.getElementById("main");

const link = (view, name, text) => h("a", { href: `#/${view}/${encodeURIComponent(name)}`, "data-key": `${view}/${name}` }, text ?? name);

/** Why a table needs a person, or will soon; null if it does not. */
function trouble(table) {
  if (table.resume) return { word: table.state, why: table.reason, todo: table.resume };
  if (table.blocked) return { word: "blocked", why: table.blocked, todo: "Producers are refused until its table catches up." };
  if (table.state === "RETRYING") return { word: table.state, why: table.reason, todo: "It is tried again by itself." };
  if (table.lag_ms > LATE_LAGS * (table.target_lag_ms ?? 60_000)) {
    return { word: "late", why: `the oldest event waits for ${duration(table.lag_ms)}`, todo: table.reason ?? "" };
  }
  return null;
}

/** The count of a list without reading it further than one page. */
const upTo = (list, next) => count(list.length) + (next === undefined ? "" : " and more");

/** What may be missing: a right to see it is not an error of the whole view. */
async function ifAllowed(question) {
  try {
    return await question;
  } catch (error) {
    if (error.status === 403 || error.status === 404) return null;
    throw error;
  }
}

async function readiness() {
  const answer = await ask("GET", "/readyz");
  return answer.ok ? null : refusal(answer);
}

const seen = { limit: SEEN_MAX };

async function overview(signal) {
  const region = h("div", {});
  show(main, h("h1", {}, "Overview"), region);
  repeat(signal, 10, region, async () => {
    const [fault, version, status] = await Promise.all([
      readiness(), api("GET", "/version"), ifAllowed(api("GET", "/api/v1/status")),
    ]);
    const [topics, tables, streams, sources, quarantine] = await Promise.all([
      api("GET", "/api/v1/topics", { query: seen }), api("GET", "/api/v1/tables", { query: seen }),
      api("GET", "/api/v1/streams", { query: seen }), ifAllowed(api("GET", "/api/v1/sources", { query: seen })),
      ifAllowed(api("GET", "/api/v1/quarantine", { query: seen })),
    ]);
    if (signal.aborted) return;
    const bad = tables.tables.map((table) => [table, trouble(table)]).filter(([, wrong]) => wrong);
    const sum = (list, of) => count(list.reduce((total, it) => total + of(it), 0));
    show(region,
      fault && alertOf(fault),
      h("p", {}, state(fault ? "not ready" : "ready"), fault ? " Events are refused." : " Events are taken."),
      status && status.reasons.map((it) => h("p", { class: "bad" }, it)),
      status && status.warnings.map((it) => h("p", { class: "warn" }, it)),
      facts([
        ["Version", version.version],
        ["Up for", status && duration(status.uptime_s * 1000)],
        ["Disk free", status && `${bytes(status.disk.free_bytes)} of ${bytes(status.disk.total_bytes)}`],
        ["Topics", upTo(topics.topics, topics.next)],
        ["Events in the log", sum(topics.topics, (it) => it.records)],
        ["Tables", upTo(tables.tables, tables.next)],
        ["of them of sinks", sum(tables.tables, (it) => (it.sink === null ? 0 : 1))],
        ["Events not yet in tables", sum(tables.tables, (it) => it.pending_offsets)],
        ["Rows of dead letters", sum(tables.tables, (it) => it.dlq_rows)],
        ["Streams", upTo(streams.streams, streams.next)],
        ["Sources", sources && upTo(sources.sources, sources.next)],
        ["In quarantine", quarantine && sum(quarantine.quarantine, (it) => it.records - it.replayed)],
      ]),
      h("h2", {}, "What is late, blocked or stopped"),
      grid(`${bad.length} of ${tables.tables.length} tables`, ["Table", "State", "Why", "What to do"],
        bad.map(([table, wrong]) => [link("tables", table.table), state(wrong.word), wrong.why ?? "", wrong.todo]),
        "Nothing: every table keeps up."),
      tables.next && h("p", { class: "small" }, `The first ${SEEN_MAX} tables were looked at; floe table list has all.`),
      quarantined(quarantine?.quarantine ?? []),
      topics.topics.length ? null : h("p", {}, "There is no topic yet. ", h("a", { href: "#/try" }, "Send a first event"), " or see ", h("a", { href: "#/connect" }, "how to connect"), "."));
  });
}

function quarantined(list) {
  const left = list.filter((it) => it.records > it.replayed);
  if (left.length === 0) return [];
  return [h("h2", {}, "In quarantine"),
    grid("Events that were refused and kept", ["Topic", "#Events", "Newest"],
      left.map((it) => [link("topics", it.topic), count(it.records - it.replayed), time(it.newest_ms)]), "")];
}

/** The own table of each topic, as far as a page of tables tells. */
async function tablesByTopic() {
  const { tables } = await api("GET", "/api/v1/tables", { query: seen });
  return new Map(tables.filter((it) => it.sink === null).map((it) => [it.topic, it]));
}

function topics(signal) {
  const list = pager(() => turn());
  show(main, h("h1", {}, "Topics"), list.region);
  const turn = repeat(signal, 10, list.region, async () => {
    const [page, tables] = await Promise.all([
      api("GET", "/api/v1/topics", { query: { limit: PAGE, after: list.after } }), tablesByTopic(),
    ]);
    if (signal.aborted) return;
    const rows = page.topics.map((topic) => {
      const table = tables.get(topic.name);
      return [link("topics", topic.name), count(topic.partitions), count(topic.records), bytes(topic.size_bytes),
        table && link("tables", table.table), table && state(table.state), table && duration(table.lag_ms)];
    });
    show(list.region,
      grid("Events are those that the log still has; lag is the age of the oldest that is not in the table",
        ["Topic", "#Partitions", "#Events", "#Size", "Table", "State", "#Lag"], rows, "There is no topic yet: the first event makes one."),
      list.buttons(page.next));
  });
}

function recordRows(records) {
  const cell = (text) => h("span", { class: "cell" }, text === null || text === undefined ? "null" : typeof text === "string" ? text : JSON.stringify(text));
  return records.map((it) => [count(it.partition), String(it.offset), time(it.timestamp_ms), it.key === null ? "–" : cell(it.key), cell(it.value),
    it.headers?.length ? cell(it.headers.map((header) => `${header.name}: ${header.value}`).join("\n")) : "–"]);
}

const RECORD_HEADS = ["#Partition", "#Offset", "Time", "Key", "Value", "Headers"];

/** Reads records as they come. EventSource could not send a token. */
async function follow(topic, signal, onrecords) {
  const answer = await ask("GET", "/api/v1/topics/{topic}/tail", { names: { topic }, signal });
  if (!answer.ok) throw await refusal(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    const data = events.flatMap((event) => event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)));
    if (data.length) onrecords(data.slice(-LIVE_MAX).map((line) => JSON.parse(line)));
  }
}

/** The last records of a topic, and those that come. */
function records(topic, signal) {
  const [region, told] = [h("div", {}), h("div", { role: "status" })];
  let live = null;
  let kept = [];
  const draw = (caption) => show(region, grid(caption, RECORD_HEADS, recordRows(kept), "No events."));
  const last = async () => {
    const page = await api("GET", "/api/v1/topics/{topic}/records", { names: { topic }, query: { offset: "latest", limit: 20 } });
    kept = page.records.sort((a, b) => b.timestamp_ms - a.timestamp_ms || b.offset - a.offset);
    draw("The last ones of the log, newest first");
  };
  const stop = () => { live?.abort(); live = null; toggle.textContent = "Follow live"; };
  const start = async () => {
    const mine = live = new AbortController();
    toggle.textContent = "Stop following";
    show(told, h("p", { class: "small" }, "Waiting for events …"));
    let due = 0;
    try {
      await follow(topic, AbortSignal.any([signal, mine.signal]), (more) => {
        kept = [...more.reverse(), ...kept].slice(0, LIVE_MAX);
        due ||= setTimeout(() => { due = 0; draw(`Live, newest first, at most ${LIVE_MAX}`); }, 250);
      });
      show(told, h("p", { class: "small" }, "The server ended it."));
    } catch (error) {
      show(told, error.name === "AbortError" ? "" : alertOf(error));
    }
    if (live === mine) stop();
  };
  const toggle = h("button", { type: "button", onclick: () => (live ? stop() : start()) }, "Follow live");
  const again = h("button", { type: "button", onclick: () => last().catch((error) => show(told, alertOf(error))) }, "Last records");
  last().catch((error) => { if (!signal.aborted) show(region, alertOf(error)); });
  return [h("h2", {}, "Records"), h("p", { class: "row" }, toggle, again), told, region];
}

function options(list) {
  const row = (it) => [h("code", {}, it.key), h("code", {}, it.value === "" ? "–" : it.value), it.source, it.doc];
  const heads = ["Option", "Value", "Set by", "What it does"];
  const set = list.filter((it) => it.source !== "default");
  return [h("h2", {}, "Options"), grid("What is not the default", heads, set.map(row), "All are the defaults."),
    h("details", {}, h("summary", {}, "All that have an effect"),
      grid("Change them with floe topic alter", heads, list.filter((it) => !it.no_effect).map(row), ""))];
}

async function quarantineOf(topic) {
  const found = await ifAllowed(api("GET", "/api/v1/quarantine/{topic}", { names: { topic }, query: { limit: 20 } }));
  if (!found || found.records.length === 0) return [];
  const rows = found.records.map((it) => [`${it.partition}-${it.offset}`, time(it.time_ms), h("code", {}, it.code), it.message,
    h("span", { class: "cell" }, JSON.stringify(it.payload)), it.replayed ? "yes" : "no"]);
  return [h("h2", {}, "Quarantine"),
    grid("Events that were refused and kept, the first 20", ["Offset", "Time", "Code", "Why", "Event", "Sent again"], rows, "")];
}

async function sinksOf(topic) {
  const found = await ifAllowed(api("GET", "/api/v1/topics/{topic}/sinks", { names: { topic }, query: { limit: PAGE } }));
  if (!found || found.sinks.length === 0) return [];
  const rows = found.sinks.map((it) => [it.id, it.status && link("tables", it.status.table), it.enabled ? state(it.status?.state ?? "–") : "disabled",
    count(it.status?.rows), it.status && duration(it.status.lag_ms), it.status?.reason ?? ""]);
  return [h("h2", {}, "Sinks"), grid("Further tables of the topic", ["Sink", "Table", "State", "#Rows", "#Lag", "Why"], rows, "")];
}

async function topic(signal, query, name) {
  const [region, more] = [h("div", {}), h("div", {})];
  const to = `?topic=${encodeURIComponent(name)}`;
  show(main, h("h1", {}, `Topic ${name}`),
    h("p", { class: "row" }, h("a", { href: `#/try${to}` }, "Try it"), " · ", h("a", { href: `#/connect${to}` }, "Connect")),
    region, records(name, signal), more);
  const described = await api("GET", "/api/v1/topics/{topic}", { names: { topic: name } });
  const told = h("div", { role: "status" });
  repeat(signal, 5, region, async () => {
    const [it, tables] = await Promise.all([api("GET", "/api/v1/topics/{topic}", { names: { topic: name } }), tablesByTopic()]);
    if (signal.aborted) return;
    const table = tables.get(name);
    show(region,
      grid("Partitions: offsets that the log has, and up to where they are in the table", ["#Partition", "#First", "#End", "#In the table", "#Size"],
        it.partitions.map((part) => [String(part.partition), count(part.log_start_offset), count(part.high_watermark), count(part.tiered_offset), bytes(part.size_bytes)]), ""),
      h("h2", {}, "Table"),
      table ? [facts(tableFacts(table)), flush(table.table, told), told] : h("p", { class: "none" }, "It has none (table.mode = off), or it is not known yet."));
  });
  const parts = await Promise.all([sinksOf(name), quarantineOf(name)]);
  if (!signal.aborted) show(more, parts, options(described.options));
}

function tableFacts(table) {
  return [
    ["Table", link("tables", table.table)], ["State", state(table.state)], ["Why", table.reason], ["Blocked", table.blocked],
    ["What to do", table.resume], ["Lag", duration(table.lag_ms)], ["Waiting events", count(table.pending_offsets)],
    ["Rows", count(table.rows)], ["Dead letters", count(table.dlq_rows)], ["Last commit", time(table.last_commit_ms)],
  ];
}

function flush(table, told) {
  return h("p", { class: "row" }, button("Flush now", `flush/${table}`, told, async () => {
    const after = await api("POST", "/api/v1/tables/{table}/flush", { names: { table } });
    return `Committed: ${count(after.rows)} rows, ${count(after.pending_offsets)} events wait.`;
  }));
}

function tables(signal) {
  const [told, list] = [h("div", { role: "status" }), pager(() => turn())];
  show(main, h("h1", {}, "Tables"), told, list.region);
  const turn = repeat(signal, 10, list.region, async () => {
    const page = await api("GET", "/api/v1/tables", { query: { limit: PAGE, after: list.after } });
    if (signal.aborted) return;
    const rows = page.tables.map((it) => [link("tables", it.table), link("topics", it.topic), it.sink ?? "–", state(it.state), duration(it.lag_ms),
      count(it.rows), count(it.commits), it.blocked ?? it.reason ?? "–"]);
    show(list.region, grid("Lag is the age of the oldest event that is not in the table",
      ["Table", "Topic", "Sink", "State", "#Lag", "#Rows", "#Commits", "Why"], rows, "There is no table yet."), list.buttons(page.next));
  });
}

/** Leaves a stopped state; what each choice means is in the guide. */
function resume(table, told) {
  const from = h("select", {}, ["table", "ledger", "log-start", "latest"].map((it) => h("option", {}, it)));
  const double = h("input", { type: "checkbox" });
  return h("section", {}, h("h2", {}, "Resume"),
    h("p", { class: "small" }, "It is stopped because going on by itself could lose or double rows. What to do names the choice that fits."),
    h("label", { class: "inline" }, "Go on from ", from), h("label", { class: "inline" }, double, " rows may come twice"),
    h("p", { class: "row" }, button("Resume", "resume", told, async () => {
      if (!confirm(`Resume ${table.table} from ${from.value}?`)) return "Nothing was changed.";
      const body = JSON.stringify({ from: from.value, allow_duplicates: double.checked });
      const after = await api("POST", "/api/v1/tables/{table}/resume", { names: { table: table.table }, body });
      return `It is ${after.state} now.`;
    })));
}

function table(signal, query, name) {
  const [region, told, choice] = [h("div", {}), h("div", { role: "status" }), h("div", {})];
  show(main, h("h1", {}, `Table ${name}`), told, flush(name, told), choice, region);
  let offered = null;
  repeat(signal, 5, region, async () => {
    const it = await api("GET", "/api/v1/tables/{table}", { names: { table: name } });
    if (signal.aborted) return;
    if (it.resume !== offered) {
      offered = it.resume;
      show(choice, offered ? resume(it, told) : null);
    }
    show(region,
      facts([...tableFacts(it).slice(1), ["Topic", link("topics", it.topic)], ["Sink", it.sink], ["Mode", it.mode],
        ["Dead-letter table", it.dead_letter_table], ["Last snapshot", it.last_snapshot_id], ["Commits", count(it.commits)],
        ["Time of a commit (p95)", duration(it.commit_p95_ms)], ["Kept in the log for it", bytes(it.pinned_bytes)],
        ["Partitioned by", it.partition_spec], ["Skipped offsets", it.gap_offsets ? count(it.gap_offsets) : null]]),
      it.gaps.length ? [h("h2", {}, "Gaps"), grid("Offsets that are not in the table, and why; the newest", ["#Partition", "#From", "#To (exclusive)", "Why"],
        it.gaps.map((gap) => [String(gap.partition), count(gap.from), count(gap.to), gap.reason]), "")] : null,
      h("h2", {}, "Progress"),
      grid("Ends are exclusive", ["#Partition", "#In the table up to", "#End of the log", "#Start of the log"],
        it.partitions.map((part) => [String(part.partition), count(part.end_offset), count(part.high_watermark), count(part.log_start_offset)]), "No partition yet."),
      h("h2", {}, "Columns"), grid("As the table has them", ["Column", "Type"], it.columns.map((column) => [column.name, h("code", {}, column.type)]), "The table is made with its first row."),
      h("h2", {}, "Files of the last commit"), grid("Data and deletes", ["File", "#Size"], it.last_files.map((file) => [h("code", {}, file.path), bytes(file.bytes)]), "None yet."));
  });
}

function stream(it, told, turn) {
  const act = (text, path) => button(text, `${text}/${it.name}`, told, async () => {
    if (text === "Terminate" && !confirm(`Terminate ${it.name}? Its senders get 503 until it is started again.`)) return "Nothing was changed.";
    const after = await api("POST", path, { names: { stream: it.name } });
    turn();
    return `${it.name} is ${after.state} now.`;
  });
  const ignored = Object.entries(it.ignored_fields).map(([field, times]) => `${field} (${count(times)})`);
  const further = it.ignored_fields_more ? [`others (${count(it.ignored_fields_more)})`] : [];
  return h("section", {}, h("h2", {}, it.name),
    facts([["State", state(it.state)], ["Namespace", it.namespace], ["Tags", it.tags.join(", ")], ["Path", h("code", {}, it.path)],
      ["Fields that no column took", [...ignored, ...further].join(", ") || "none"]]),
    grid("Tables that events were sent to", ["Table", "State", "#Rows", "#Dead letters", "#Lag", "Why"],
      it.tables.map((table) => [link("tables", table.table), state(table.state), count(table.rows), count(table.dlq_rows), duration(table.lag_ms), table.reason ?? "–"]),
      "No event was sent yet."),
    h("p", { class: "row" },
      it.state === "Stopped" ? act("Start", "/api/v1/streams/{stream}/start") : act("Terminate", "/api/v1/streams/{stream}/terminate"),
      h("a", { href: `#/connect?stream=${encodeURIComponent(it.name)}` }, "Connect")));
}

function streams(signal) {
  const [told, list] = [h("div", { role: "status" }), pager(() => turn())];
  show(main, h("h1", {}, "Streams"), h("p", {}, "Doors over HTTP to tables that are there already."), told, list.region);
  const turn = repeat(signal, 10, list.region, async () => {
    const page = await api("GET", "/api/v1/streams", { query: { limit: PAGE, after: list.after } });
    if (signal.aborted) return;
    show(list.region, page.streams.map((it) => stream(it, told, turn)),
      page.streams.length ? null : h("p", { class: "none" }, "There is no stream: floe stream create makes one."), list.buttons(page.next));
  });
}

const VIEWS = { "": overview, topics, tables, streams, connect: (signal, query) => connect(main, signal, query), try: (signal, query) => tryIt(main, signal, query) };
const OF_ONE = { topics: topic, tables: table };

async function route() {
  const signal = begin();
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, one] = path.split("/");
  const view = (one ? OF_ONE[name] : VIEWS[name]) ?? overview;
  for (const it of document.querySelectorAll("nav a")) {
    const isHere = it.getAttribute("href") === `#/${name}`;
    if (isHere) it.setAttribute("aria-current", "page");
    else it.removeAttribute("aria-current");
  }
  document.title = `${one ? decodeURIComponent(one) : name || "Overview"} – Floe`;
  try {
    await view(signal, new URLSearchParams(query), one && decodeURIComponent(one));
  } catch (error) {
    if (!signal.aborted) main.append(alertOf(error));
  }
}

const box = document.getElementById("token-box");
const field = document.getElementById("token");
const opener = document.getElementById("token-open");

function open(isOpen) {
  box.hidden = !isOpen;
  opener.setAttribute("aria-expanded", String(isOpen));
}

opener.addEventListener("click", () => { open(box.hidden); if (!box.hidden) field.focus(); });
box.addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(field.value.trim());
  field.value = "";
  open(false);
  route();
});
document.getElementById("token-forget").addEventListener("click", () => { setToken(""); open(false); route(); });
document.addEventListener("token-needed", () => {
  document.getElementById("token-why").textContent = token()
    ? "The token is not taken here any more, or never was. Another one is needed."
    : "This server wants a token. It is sent with every request of this page, stays in this tab and is gone when the tab is closed.";
  if (box.hidden) { open(true); field.focus(); }
});
window.addEventListener("hashchange", () => { route().then(() => main.focus()); window.scrollTo(0, 0); });
route();
