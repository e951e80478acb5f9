// The views of tables.

import {
  api,
  button,
  bytes,
  count,
  duration,
  facts,
  grid,
  h,
  link,
  PAGE,
  pager,
  repeat,
  seen,
  show,
  state,
  time,
} from "./page.js";

const main = document.getElementById("main");

/** The own table of each topic, as far as a page of tables tells. */
export async function tablesByTopic() {
  const { tables } = await api("GET", "/api/v1/tables", { query: seen });
  return new Map(tables.filter((it) => it.sink === null).map((it) => [it.topic, it]));
}

export function tableFacts(table) {
  return [
    ["Table", link("tables", table.table)],
    ["State", state(table.state)],
    ["Why", table.reason],
    ["Blocked", table.blocked],
    ["What to do", table.resume],
    ["Lag", duration(table.lag_ms)],
    ["Waiting events", count(table.pending_offsets)],
    ["Rows", count(table.rows)],
    ["Dead letters", count(table.dlq_rows)],
    ["Last commit", time(table.last_commit_ms)],
  ];
}

export function flush(table, told) {
  return h(
    "p",
    { class: "row" },
    button("Flush now", `flush/${table}`, told, async () => {
      const after = await api("POST", "/api/v1/tables/{table}/flush", { names: { table } });
      return `Committed: ${count(after.rows)} rows, ${count(after.pending_offsets)} events wait.`;
    }),
  );
}

export function tables(signal) {
  const [told, list] = [h("div", { role: "status" }), pager(() => turn())];
  show(main, h("h1", {}, "Tables"), told, list.region);
  const turn = repeat(signal, 10, list.region, async () => {
    const page = await api("GET", "/api/v1/tables", { query: { limit: PAGE, after: list.after } });
    if (signal.aborted) return;
    const rows = page.tables.map((it) => [
      link("tables", it.table),
      link("topics", it.topic),
      it.sink ?? "–",
      state(it.state),
      duration(it.lag_ms),
      count(it.rows),
      count(it.commits),
      it.blocked ?? it.reason ?? "–",
    ]);
    show(
      list.region,
      grid(
        "Lag is the age of the oldest event that is not in the table",
        ["Table", "Topic", "Sink", "State", "#Lag", "#Rows", "#Commits", "Why"],
        rows,
        "No table yet, or none that the token may see.",
      ),
      list.buttons(page.next),
    );
  });
}

/** What stands in the command that leaves a stopped state; all, if it names none. */
function choices(command) {
  const named = [...command.matchAll(/--from ([a-z|-]+)/g)].flatMap((it) => it[1].split("|"));
  const known = ["table", "ledger", "log-start", "latest"];
  const fit = known.filter((it) => named.includes(it));
  return fit.length ? fit : known;
}

/** Leaves a stopped state; what each choice means is in the guide. */
function resume(table, told) {
  const from = h(
    "select",
    {},
    choices(table.resume).map((it) => h("option", {}, it)),
  );
  const double = h("input", { type: "checkbox" });
  const work = async () => {
    if (!confirm(`Resume ${table.table} from ${from.value}?`)) return "Nothing was changed.";
    const body = JSON.stringify({ from: from.value, allow_duplicates: double.checked });
    const after = await api("POST", "/api/v1/tables/{table}/resume", { names: { table: table.table }, body });
    return `It is ${after.state} now.`;
  };
  return h(
    "section",
    { class: "problem" },
    h("h2", {}, "It is stopped: a person must decide"),
    h("p", {}, state(table.state), ` ${table.reason ?? ""}`),
    h("p", {}, h("code", {}, table.resume)),
    h("label", { class: "inline" }, "Go on from ", from),
    h("label", { class: "inline" }, double, " rows may come twice"),
    h("p", { class: "row" }, button("Resume", "resume", told, work)),
  );
}

export function table(signal, query, name) {
  const [region, told, choice] = [h("div", {}), h("div", { role: "status" }), h("div", {})];
  show(main, h("h1", {}, `Table ${name}`), choice, flush(name, told), told, region);
  let offered = null;
  repeat(signal, 5, region, async () => {
    const it = await api("GET", "/api/v1/tables/{table}", { names: { table: name } });
    if (signal.aborted) return;
    if (it.resume !== offered) {
      offered = it.resume;
      show(choice, offered ? resume(it, told) : null);
    }
    show(
      region,
      facts([
        ...tableFacts(it).filter(([name]) => name !== "Table" && name !== "What to do"),
        ["Topic", link("topics", it.topic)],
        ["Sink", it.sink],
        ["Mode", it.mode],
        ["Dead-letter table", it.dead_letter_table],
        ["Last snapshot", it.last_snapshot_id],
        ["Commits", count(it.commits)],
        ["Time of a commit (p95)", duration(it.commit_p95_ms)],
        ["Kept in the log for it", bytes(it.pinned_bytes)],
        ["Partitioned by", it.partition_spec],
        ["Skipped offsets", it.gap_offsets ? count(it.gap_offsets) : null],
      ]),
      it.gaps.length
        ? [
            h("h2", {}, "Gaps"),
            grid(
              "Offsets that are not in the table, and why; the newest",
              ["#Partition", "#From", "#To (exclusive)", "Why"],
              it.gaps.map((gap) => [String(gap.partition), count(gap.from), count(gap.to), gap.reason]),
              "",
            ),
          ]
        : null,
      h("h2", {}, "Progress"),
      grid(
        "Ends are exclusive",
        ["#Partition", "#In the table up to", "#End of the log", "#Start of the log"],
        it.partitions.map((part) => [
          String(part.partition),
          count(part.end_offset),
          count(part.high_watermark),
          count(part.log_start_offset),
        ]),
        "No partition yet.",
      ),
      h("h2", {}, "Columns"),
      grid(
        "As the table has them",
        ["Column", "Type"],
        it.columns.map((column) => [column.name, h("code", {}, column.type)]),
        "The table is made with its first row.",
      ),
      h("h2", {}, "Files of the last commit"),
      grid(
        "Data and deletes",
        ["File", "#Size"],
        it.last_files.map((file) => [h("code", {}, file.path), bytes(file.bytes)]),
        "None yet.",
      ),
    );
  });
}
