// The views of topics, and of their records.

import {
  alertOf,
  api,
  ask,
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
  show,
  state,
  time,
} from "./page.js";
import { flush, tableFacts, tablesByTopic } from "./tables.js";

/** Records that a live view keeps. */
const LIVE_MAX = 100;

const main = document.getElementById("main");

export function topics(signal) {
  const list = pager(() => turn());
  show(main, h("h1", {}, "Topics"), list.region);
  const turn = repeat(signal, 10, list.region, async () => {
    const [page, tables] = await Promise.all([
      api("GET", "/api/v1/topics", { query: { limit: PAGE, after: list.after } }),
      tablesByTopic(),
    ]);
    if (signal.aborted) return;
    const rows = page.topics.map((topic) => {
      const table = tables.get(topic.name);
      return [
        link("topics", topic.name),
        count(topic.partitions),
        count(topic.records),
        bytes(topic.size_bytes),
        table && link("tables", table.table),
        table && state(table.state),
        table && duration(table.lag_ms),
      ];
    });
    show(
      list.region,
      grid(
        "Events are those that the log still has; lag is the age of the oldest that is not in the table",
        ["Topic", "#Partitions", "#Events", "#Size", "Table", "State", "#Lag"],
        rows,
        "No topic yet, or none that the token may see: the first event makes one.",
      ),
      list.buttons(page.next),
    );
  });
}

/** What is text as text, other bytes as base64, nothing as –. */
function content(it, name) {
  const bytes = it[`${name}_base64`];
  if (bytes !== undefined) return h("span", { class: "cell" }, `base64: ${bytes}`);
  const length = it[`${name}_bytes`];
  if (length !== undefined) return `too long to be shown: ${count(length)} bytes`;
  return it[name] === null || it[name] === undefined ? "–" : h("span", { class: "cell" }, it[name]);
}

function recordRows(records) {
  const header = (it) => {
    const { name, value, value_base64: base64, value_bytes: length } = it;
    const other = length ? `too long to be shown: ${count(length)} bytes` : "null";
    return `${name}: ${value ?? (base64 ? `base64: ${base64}` : other)}`;
  };
  const headers = (it) => {
    const left = it.headers_left_out ? [`and ${count(it.headers_left_out)} more`] : [];
    return [...it.headers.map(header), ...left].join("\n");
  };
  return records.map((it) => [
    count(it.partition),
    String(it.offset),
    time(it.timestamp_ms),
    content(it, "key"),
    content(it, "value"),
    it.headers?.length ? h("span", { class: "cell" }, headers(it)) : "–",
  ]);
}

const RECORD_HEADS = ["#Partition", "#Offset", "Time", "Key", "Value", "Headers"];

/** Reads records as they come. The browser's own reader of such streams could not send a token. */
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
    const data = events.flatMap((event) =>
      event
        .split("\n")
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5)),
    );
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
    const page = await api("GET", "/api/v1/topics/{topic}/records", {
      names: { topic },
      query: { offset: "latest", limit: 20 },
    });
    kept = page.records.sort((a, b) => b.timestamp_ms - a.timestamp_ms || b.offset - a.offset);
    draw("The last ones of the log, newest first");
  };
  const stop = () => {
    live?.abort();
    live = null;
    toggle.textContent = "Follow live";
  };
  const start = async () => {
    const mine = (live = new AbortController());
    toggle.textContent = "Stop following";
    show(told, h("p", { class: "small" }, "Waiting for events …"));
    let due = 0;
    try {
      await follow(topic, AbortSignal.any([signal, mine.signal]), (more) => {
        kept = [...more.reverse(), ...kept].slice(0, LIVE_MAX);
        due ||= setTimeout(() => {
          due = 0;
          draw(`Live, newest first, at most ${LIVE_MAX}`);
        }, 250);
      });
      show(told, h("p", { class: "small" }, "The server ended it."));
    } catch (error) {
      show(told, error.name === "AbortError" ? "" : alertOf(error));
    }
    if (live === mine) stop();
  };
  const toggle = h("button", { type: "button", onclick: () => (live ? stop() : start()) }, "Follow live");
  const again = h(
    "button",
    { type: "button", onclick: () => last().catch((error) => show(told, alertOf(error))) },
    "Last records",
  );
  last().catch((error) => {
    if (!signal.aborted) show(region, alertOf(error));
  });
  return [h("h2", {}, "Records"), h("p", { class: "row" }, toggle, again), told, region];
}

function options(list) {
  const row = (it) => [
    h("code", {}, it.key),
    h("code", {}, it.value === "" ? "–" : it.value),
    it.source,
    it.doc,
  ];
  const heads = ["Option", "Value", "Set by", "What it does"];
  const set = list.filter((it) => it.source !== "default");
  return [
    h("h2", {}, "Options"),
    grid("What is not the default", heads, set.map(row), "All are the defaults."),
    h(
      "details",
      {},
      h("summary", {}, "All that have an effect"),
      grid("Change them with floe topic alter", heads, list.filter((it) => !it.no_effect).map(row), ""),
    ),
  ];
}

async function quarantineOf(topic) {
  const found = await ifAllowed(
    api("GET", "/api/v1/quarantine/{topic}", { names: { topic }, query: { limit: 20 } }),
  );
  if (!found || found.records.length === 0) return [];
  const rows = found.records.map((it) => [
    `${it.partition}-${it.offset}`,
    time(it.time_ms),
    h("code", {}, it.code),
    it.message,
    h("span", { class: "cell" }, JSON.stringify(it.payload)),
    it.replayed ? "yes" : "no",
  ]);
  return [
    h("h2", {}, "Quarantine"),
    grid(
      "Events that were refused and kept, the first 20",
      ["Offset", "Time", "Code", "Why", "Event", "Sent again"],
      rows,
      "",
    ),
  ];
}

async function sinksOf(topic) {
  const found = await ifAllowed(
    api("GET", "/api/v1/topics/{topic}/sinks", { names: { topic }, query: { limit: PAGE } }),
  );
  if (!found || found.sinks.length === 0) return [];
  const rows = found.sinks.map((it) => [
    it.id,
    it.status && link("tables", it.status.table),
    it.enabled ? state(it.status?.state ?? "–") : "disabled",
    count(it.status?.rows),
    it.status && duration(it.status.lag_ms),
    it.status?.reason ?? "",
  ]);
  return [
    h("h2", {}, "Sinks"),
    grid("Further tables of the topic", ["Sink", "Table", "State", "#Rows", "#Lag", "Why"], rows, ""),
  ];
}

export async function topic(signal, query, name) {
  const [region, more] = [h("div", {}), h("div", {})];
  const to = `?topic=${encodeURIComponent(name)}`;
  const ways = h(
    "p",
    { class: "row" },
    h("a", { href: `#/try${to}` }, "Try it"),
    " · ",
    h("a", { href: `#/connect${to}` }, "Connect"),
  );
  show(main, h("h1", {}, `Topic ${name}`), ways);
  const described = await api("GET", "/api/v1/topics/{topic}", { names: { topic: name } });
  if (signal.aborted) return;
  const hasTable = described.options.some((it) => it.key === "table.mode" && it.value !== "off");
  main.append(region, ...records(name, signal), more);
  const told = h("div", { role: "status" });
  repeat(signal, 5, region, async () => {
    const [it, found] = await Promise.all([
      api("GET", "/api/v1/topics/{topic}", { names: { topic: name } }),
      hasTable ? ifAllowed(api("GET", "/api/v1/tables/{table}", { names: { table: name } })) : null,
    ]);
    if (signal.aborted) return;
    const table = found?.topic === name && found.sink === null ? found : null;
    show(
      region,
      grid(
        "Partitions: offsets that the log has, and up to where they are in the table",
        ["#Partition", "#First", "#End", "#In the table", "#Size"],
        it.partitions.map((part) => [
          String(part.partition),
          count(part.log_start_offset),
          count(part.high_watermark),
          count(part.tiered_offset),
          bytes(part.size_bytes),
        ]),
        "",
      ),
      h("h2", {}, "Table"),
      table
        ? [facts(tableFacts(table)), flush(table.table, told), told]
        : h(
            "p",
            { class: "none" },
            "It has none (table.mode = off), it is not known yet, or this token may not see it.",
          ),
    );
  });
  const parts = await Promise.all([sinksOf(name), quarantineOf(name)]);
  if (!signal.aborted) show(more, parts, options(described.options));
}
