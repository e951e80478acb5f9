// The views of the page and the way between them. An address is #/view/name?choice=…: it never has
// a token.

import {
  alertOf,
  api,
  ask,
  begin,
  button,
  bytes,
  count,
  duration,
  facts,
  grid,
  h,
  ifAllowed,
  link,
  PAGE,
  pager,
  refusal,
  repeat,
  seen,
  SEEN_MAX,
  setToken,
  show,
  state,
  time,
  token,
} from "./page.js";
import { connect, tryIt } from "./connect.js";
import { table, tables } from "./tables.js";
import { topic, topics } from "./topics.js";

/** A table is late after so many times its target lag. */
const LATE_LAGS = 2;

const main = document.getElementById("main");

/** Why a table needs a person, or will soon; null if it does not. */
function trouble(table) {
  if (table.resume) return { word: table.state, why: table.reason, todo: table.resume };
  if (table.blocked)
    return { word: "blocked", why: table.blocked, todo: "Producers are refused until its table catches up." };
  if (table.state === "RETRYING")
    return { word: table.state, why: table.reason, todo: "It is tried again by itself." };
  if (table.lag_ms > LATE_LAGS * table.target_lag_ms) {
    return {
      word: "late",
      why: `the oldest event waits for ${duration(table.lag_ms)}`,
      todo: table.reason ?? "",
    };
  }
  return null;
}

/** The count of a list without reading it further than one page. */
const upTo = (list, next) => count(list.length) + (next === undefined ? "" : " and more");

async function readiness() {
  const answer = await ask("GET", "/readyz");
  return answer.ok ? null : refusal(answer);
}

async function overview(signal) {
  const region = h("div", {});
  show(main, h("h1", {}, "Overview"), region);
  repeat(signal, 10, region, async () => {
    const [fault, version, status] = await Promise.all([
      readiness(),
      api("GET", "/version"),
      ifAllowed(api("GET", "/api/v1/status")),
    ]);
    const [topics, tables, streams, sources, quarantine] = await Promise.all([
      api("GET", "/api/v1/topics", { query: seen }),
      api("GET", "/api/v1/tables", { query: seen }),
      api("GET", "/api/v1/streams", { query: seen }),
      ifAllowed(api("GET", "/api/v1/sources", { query: seen })),
      ifAllowed(api("GET", "/api/v1/quarantine", { query: seen })),
    ]);
    if (signal.aborted) return;
    const bad = tables.tables.map((table) => [table, trouble(table)]).filter(([, wrong]) => wrong);
    const sum = (list, of) => count(list.reduce((total, it) => total + of(it), 0));
    show(
      region,
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
      grid(
        `${bad.length} of ${tables.tables.length} tables`,
        ["Table", "State", "Why", "What to do"],
        bad.map(([table, wrong]) => [
          link("tables", table.table),
          state(wrong.word),
          wrong.why ?? "",
          wrong.todo,
        ]),
        "Nothing: every table that is seen here keeps up.",
      ),
      tables.next &&
        h("p", { class: "small" }, `The first ${SEEN_MAX} tables were looked at; floe table list has all.`),
      quarantined(quarantine?.quarantine ?? []),
      topics.topics.length
        ? null
        : h(
            "p",
            {},
            "There is no topic yet. ",
            h("a", { href: "#/try" }, "Send a first event"),
            " or see ",
            h("a", { href: "#/connect" }, "how to connect"),
            ".",
          ),
    );
  });
}

function quarantined(list) {
  const left = list.filter((it) => it.records > it.replayed);
  if (left.length === 0) return [];
  return [
    h("h2", {}, "In quarantine"),
    grid(
      "Events that were refused and kept",
      ["Topic", "#Events", "Newest"],
      left.map((it) => [link("topics", it.topic), count(it.records - it.replayed), time(it.newest_ms)]),
      "",
    ),
  ];
}

function stream(it, told, turn) {
  const act = (text, path) =>
    button(text, `${text}/${it.name}`, told, async () => {
      if (
        text === "Terminate" &&
        !confirm(`Terminate ${it.name}? Its senders get 503 until it is started again.`)
      )
        return "Nothing was changed.";
      const after = await api("POST", path, { names: { stream: it.name } });
      turn();
      return `${it.name} is ${after.state} now.`;
    });
  const ignored = Object.entries(it.ignored_fields).map(([field, times]) => `${field} (${count(times)})`);
  const further = it.ignored_fields_more ? [`others (${count(it.ignored_fields_more)})`] : [];
  return h(
    "section",
    {},
    h("h2", {}, it.name),
    facts([
      ["State", state(it.state)],
      ["Namespace", it.namespace],
      ["Tags", it.tags.join(", ")],
      ["Path", h("code", {}, it.path)],
      ["Fields that no column took", [...ignored, ...further].join(", ") || "none"],
    ]),
    grid(
      "Tables that events were sent to",
      ["Table", "State", "#Rows", "#Dead letters", "#Lag", "Why"],
      it.tables.map((table) => [
        link("tables", table.table),
        state(table.state),
        count(table.rows),
        count(table.dlq_rows),
        duration(table.lag_ms),
        table.reason ?? "–",
      ]),
      "No event was sent yet.",
    ),
    h(
      "p",
      { class: "row" },
      it.state === "Stopped"
        ? act("Start", "/api/v1/streams/{stream}/start")
        : act("Terminate", "/api/v1/streams/{stream}/terminate"),
      h("a", { href: `#/connect?stream=${encodeURIComponent(it.name)}` }, "Connect"),
    ),
  );
}

function streams(signal) {
  const [told, list] = [h("div", { role: "status" }), pager(() => turn())];
  show(
    main,
    h("h1", {}, "Streams"),
    h("p", {}, "Doors over HTTP to tables that are there already."),
    told,
    list.region,
  );
  const turn = repeat(signal, 10, list.region, async () => {
    const page = await api("GET", "/api/v1/streams", { query: { limit: PAGE, after: list.after } });
    if (signal.aborted) return;
    show(
      list.region,
      page.streams.map((it) => stream(it, told, turn)),
      page.streams.length
        ? null
        : h(
            "p",
            { class: "none" },
            "No stream, or none that the token may see: floe stream create makes one.",
          ),
      list.buttons(page.next),
    );
  });
}

const VIEWS = new Map([
  ["", overview],
  ["topics", topics],
  ["tables", tables],
  ["streams", streams],
  ["connect", (signal, query) => connect(main, signal, query)],
  ["try", (signal, query) => tryIt(main, signal, query)],
]);
const OF_ONE = new Map([
  ["topics", topic],
  ["tables", table],
]);

/** A name as it stood in an address that somebody may have typed. */
function decoded(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

async function route() {
  const signal = begin();
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...names] = path.split("/");
  const one = decoded(names.join("/"));
  const view = (one ? OF_ONE : VIEWS).get(name) ?? overview;
  for (const it of document.querySelectorAll("nav a")) {
    const isHere = it.getAttribute("href") === `#/${name}`;
    if (isHere) it.setAttribute("aria-current", "page");
    else it.removeAttribute("aria-current");
  }
  document.title = `${one || name || "Overview"} – Floe`;
  try {
    await view(signal, new URLSearchParams(query), one);
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

opener.addEventListener("click", () => {
  open(box.hidden);
  if (!box.hidden) field.focus();
});
box.addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(field.value.trim());
  field.value = "";
  open(false);
  route();
});
document.getElementById("token-forget").addEventListener("click", () => {
  setToken("");
  open(false);
  route();
});
document.addEventListener("token-needed", () => {
  document.getElementById("token-why").textContent = token()
    ? "The token is not taken here any more, or never was. Another one is needed."
    : "This server wants a token. It is sent with every request of this page, stays in this tab and is gone when the tab is closed.";
  if (box.hidden) {
    open(true);
    field.focus();
  }
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", () => {
  main.focus();
  window.scrollTo(0, 0);
  route();
});
route();
