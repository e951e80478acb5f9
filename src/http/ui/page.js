// What every view needs: elements, questions to the API, the token, problems, refreshing.
// Nothing that comes from the server is ever read as markup: it is set as text.

/** An element; `attributes` named on… are listeners, children are elements or text. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Puts `children` in place of what `region` has; whoever had the focus there keeps it. */
export function show(region, ...children) {
  const focused = region.contains(document.activeElement) && document.activeElement.dataset.key;
  region.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  if (!focused) return;
  const again = [...region.querySelectorAll("[data-key]")].find((it) => it.dataset.key === focused);
  if (again) again.focus();
}

const TOKEN = "floe.token";

export function token() {
  return sessionStorage.getItem(TOKEN) ?? "";
}

export function setToken(value) {
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
}

/** What an answer that is no success says. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.title ?? `Status ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

/** The path with its names and parameters filled in. */
export function filled(path, names = {}, query = {}) {
  const whole = path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(names[name]));
  const pairs = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  return pairs.length ? `${whole}?${new URLSearchParams(pairs)}` : whole;
}

/** Sends a request; the answer, whatever its status. */
export async function ask(method, path, { names, query, body, type, signal } = {}) {
  const headers = {};
  if (token()) headers.token = token();
  if (body !== undefined) headers["Content-Type"] = type ?? "application/json";
  return fetch(filled(path, names, query), { method, headers, body, signal, cache: "no-store" });
}

/** Why an answer is no success. A proxy in front may answer with something else than a problem. */
export async function refusal(answer) {
  const text = await answer.text();
  let problem;
  try {
    problem = JSON.parse(text);
  } catch {
    problem = { detail: text.slice(0, 500) };
  }
  if (answer.status === 401) document.dispatchEvent(new CustomEvent("token-needed"));
  return new Refused(answer.status, problem);
}

/** Ids of snapshots are above what a number of JavaScript holds exactly. */
function parsed(text) {
  return JSON.parse(text.replace(/("last_snapshot_id":\s*)(-?\d+)/g, '$1"$2"'));
}

/** Sends a request; what it answers. Throws [`Refused`]. */
export async function api(method, path, wish = {}) {
  const answer = await ask(method, path, wish);
  if (!answer.ok) throw await refusal(answer);
  const text = await answer.text();
  return text === "" ? null : parsed(text);
}

/** An error for a person: title, detail, what to ask the server's log for. */
export function alertOf(error) {
  const problem = error.problem ?? {};
  const title = error.problem ? `${error.message} (${error.status})` : "No answer";
  const code = problem.code && h("a", { href: `${location.origin}/problems#${problem.code}` }, problem.code);
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("strong", {}, title),
    h("p", {}, problem.detail ?? String(error.message ?? error)),
    h(
      "p",
      { class: "small" },
      code ? ["Code ", code, ", with what to do. "] : "",
      problem.request_id ? `Request ${problem.request_id}` : "",
    ),
  );
}

let view = { signal: AbortSignal.abort() };

/** Ends all that the view before does, and begins another. */
export function begin() {
  view.controller?.abort();
  const controller = new AbortController();
  view = { controller, signal: controller.signal };
  return controller.signal;
}

/** Runs `work` now and `seconds` after it ended, while the view and the tab are looked at. */
export function repeat(signal, seconds, region, work) {
  let timer = 0;
  let running = false;
  let asked = false;
  const turn = async () => {
    clearTimeout(timer);
    asked = running;
    if (signal.aborted || running || document.hidden) return;
    running = true;
    let goesOn = true;
    try {
      await work();
    } catch (error) {
      if (signal.aborted) return;
      show(region, alertOf(error));
      goesOn = error.status !== 401;
    } finally {
      running = false;
    }
    if (goesOn && !signal.aborted) timer = setTimeout(turn, asked ? 0 : seconds * 1000);
  };
  document.addEventListener("visibilitychange", turn, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  turn();
  return turn;
}

/** A button that waits for its `work` and shows what went wrong in `told`. */
export function button(text, key, told, work) {
  return h(
    "button",
    {
      type: "button",
      "data-key": key,
      async onclick(event) {
        const it = event.currentTarget;
        it.disabled = true;
        show(told, h("p", { class: "small" }, `${text} …`));
        try {
          show(told, h("p", { class: "good" }, (await work()) ?? "Done."));
        } catch (error) {
          show(told, alertOf(error));
        } finally {
          it.disabled = false;
        }
      },
    },
    text,
  );
}

/** A table; a head that begins with # is of numbers. On narrow screens each row is a block. */
export function grid(caption, heads, rows, none) {
  if (rows.length === 0) return h("p", { class: "none" }, none);
  const names = heads.map((head) => head.replace(/^#/, ""));
  const number = (index) => (heads[index].startsWith("#") ? "number" : null);
  return h(
    "table",
    {},
    h("caption", {}, caption),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        names.map((name, index) => h("th", { scope: "col", class: number(index) }, name)),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map((cells) =>
        h(
          "tr",
          {},
          cells.map((cell, index) =>
            h("td", { class: number(index), "data-head": names[index] }, cell ?? "–"),
          ),
        ),
      ),
    ),
  );
}

/** Names and values. */
export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h(
    "dl",
    {},
    known.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** A page of a list, and how to get to the next and the first one. `load(after)` shows it. */
export function pager(load) {
  let after;
  const region = h("div", {});
  const list = {
    region,
    get after() {
      return after;
    },
  };
  list.buttons = (next) => {
    const to = (text, cursor, key) =>
      h(
        "button",
        {
          type: "button",
          "data-key": key,
          onclick: () => {
            after = cursor;
            load();
          },
        },
        text,
      );
    const first = after === undefined ? null : to("First page", undefined, "first");
    const further = next === undefined ? null : to("Next page", next, "next");
    return first || further ? h("p", { class: "pager" }, first, further) : null;
  };
  return list;
}

export const count = (value) =>
  value === null || value === undefined ? "–" : Number(value).toLocaleString("en");

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(Math.floor(Math.log2(Math.max(value, 1)) / 10), units.length - 1);
  return `${(value / 1024 ** power).toFixed(power && value / 1024 ** power < 10 ? 1 : 0)} ${units[power]}`;
}

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  const [s, m, hours] = [ms / 1000, ms / 60_000, ms / 3_600_000];
  if (ms < 1000) return `${ms} ms`;
  if (s < 120) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  if (m < 120) return `${Math.round(m)} min`;
  return hours < 48 ? `${Math.round(hours)} h` : `${Math.round(hours / 24)} d`;
}

export const time = (ms) => (ms ? new Date(ms).toISOString().replace("T", " ") : "–");

const GOOD = ["RUNNING", "WAITING", "OFF", "active", "Active", "ready"];

/** A state, marked by more than its colour. */
export function state(name) {
  const kind = GOOD.includes(name)
    ? "good"
    : ["RETRYING", "DRAINING", "Draining", "late"].includes(name)
      ? "warn"
      : "bad";
  return h("span", { class: `state ${kind}` }, name);
}

/** Rows of a page of a list. */
export const PAGE = 100;
/** Tables that are looked at for what is wrong. */
export const SEEN_MAX = 1000;

/** The page of a list that a view looks through. */
export const seen = { limit: SEEN_MAX };

export const link = (view, name, text) =>
  h("a", { href: `#/${view}/${encodeURIComponent(name)}`, "data-key": `${view}/${name}` }, text ?? name);

/** What may be missing: a right to see it is not an error of the whole view. */
export async function ifAllowed(question) {
  try {
    return await question;
  } catch (error) {
    if (error.status === 403 || error.status === 404) return null;
    throw error;
  }
}
