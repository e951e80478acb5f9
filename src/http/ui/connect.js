// How to send to a topic or a stream and how to read its table: what the docs have, with the real
// names filled in. A test compares the snippets with the docs.

import { alertOf, api, ask, filled, h, show, token } from "./page.js";

const snippet = String.raw;

const CURL = snippet`curl {url}/api/v1/topics/{topic}/events -d '{"id": 2, "name": "bob", "price": 2.25}'`;
const CURL_TOKEN = snippet`curl {url}/api/v1/topics/{topic}/events -H "token: $FLOE_TOKEN" -d '{"id": 2}'`;
const CURL_STREAM = snippet`
curl {url}{path} \
  -H "token: $FLOE_TOKEN" -H 'table: floe.events.sales' -H 'content-type: application/json' \
  -d '[{"id": 1, "item": "tea", "price": 2.5, "at": "2026-01-31T12:00:00Z"}]'
`;
const KCAT = snippet`echo '{"id": 1, "name": "ada", "price": 1.5}' | kcat -b {kafka} -t {topic} -P`;
const KCAT_TOKEN = snippet`
echo '{"id": 1}' | kcat -b {kafka} -t {topic} -P -X security.protocol=SASL_PLAINTEXT \
  -X sasl.mechanism=PLAIN -X sasl.username=shop -X sasl.password=$FLOE_TOKEN
`;
const JAVA_TOKEN = snippet`
security.protocol=SASL_PLAINTEXT
sasl.mechanism=PLAIN
sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="shop" password="{token}";
`;
const PYICEBERG = snippet`
from pyiceberg.catalog import load_catalog
catalog = load_catalog("floe", type="rest", uri="{url}/iceberg")
`;
const PYICEBERG_TOKEN = snippet`
from pyiceberg.catalog import load_catalog
catalog = load_catalog("floe", type="rest", uri="{url}/iceberg", token="{token}")
`;
const PYICEBERG_READ = snippet`print(catalog.load_table("{table}").scan().to_arrow())`;
const DUCKDB = snippet`ATTACH '' AS f (TYPE iceberg, ENDPOINT '{url}/iceberg', AUTHORIZATION_TYPE 'none');`;
const DUCKDB_TOKEN = snippet`
CREATE SECRET floe (TYPE iceberg, TOKEN '{token}');
ATTACH '' AS f (TYPE iceberg, ENDPOINT '{url}/iceberg', SECRET floe);
`;

/** Names that mean nothing to a shell: an address of this page must not put a command into a snippet. */
const PLAIN = /^[A-Za-z0-9._-]+$/;

/** Fills a snippet in. */
function withNames(text, names) {
  return text.trim().replace(/\{(\w+)\}/g, (whole, name) => names[name] ?? whole);
}

/** A program of the docs, whose examples name this machine and the topic orders. */
function program(text, names) {
  return text
    .replaceAll("http://127.0.0.1:8080", names.url)
    .replaceAll("127.0.0.1:9092", "YOUR_KAFKA:9092")
    .replaceAll("topics/orders/", `topics/${names.topic}/`)
    .replaceAll(': "orders"', `: "${names.topic}"`)
    .replaceAll("orders-to-floe", `${names.topic}-to-floe`);
}

/** A snippet with its button. */
function block(title, note, text) {
  const told = h("span", { class: "small", role: "status" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      told.textContent = "copied";
    } catch {
      told.textContent = "this browser does not let the page copy: mark the text";
    }
  };
  return h(
    "section",
    {},
    h("h2", {}, title),
    note && h("p", { class: "small" }, note),
    h("pre", { tabindex: "0" }, text),
    h("p", { class: "row" }, h("button", { type: "button", onclick: copy }, "Copy"), told),
  );
}

function toRead(names, secured) {
  const sql = withNames(
    `${(secured ? DUCKDB_TOKEN : DUCKDB).trim()}\nSELECT * FROM f.{table} LIMIT 100;`,
    names,
  );
  const python = `${(secured ? PYICEBERG_TOKEN : PYICEBERG).trim()}\n${PYICEBERG_READ}`;
  return [
    block("Read the table: PyIceberg", "pip install 'pyiceberg[pyarrow]'", withNames(python, names)),
    block("Read the table: DuckDB", "Needs the extensions httpfs, avro and iceberg.", sql),
  ];
}

function toTopic(names, secured, programs) {
  const from = `FLOE_URL=${names.url} ${secured ? "FLOE_TOKEN=… " : ""}`;
  const java = `bootstrap.servers=${names.kafka}\n${secured ? withNames(JAVA_TOKEN, names) : ""}`;
  const connect = (file) => program(programs[file], names);
  return [
    h("p", {}, "Endpoint: ", h("code", {}, names.url + filled("/api/v1/topics/{topic}/events", names))),
    block("curl", null, withNames(secured ? CURL_TOKEN : CURL, names)),
    block("kcat", null, withNames(secured ? KCAT_TOKEN : KCAT, names)),
    block(
      "Java and other Kafka clients: properties",
      `Any producer; the topic is ${names.topic}.`,
      java.trim(),
    ),
    block(
      "Python",
      `Save it as send.py, then: ${from}python3 send.py ${names.topic} < events.ndjson`,
      programs["send.py"],
    ),
    block(
      "JavaScript",
      `Save it as send.mjs, then: ${from}node send.mjs ${names.topic} < events.ndjson`,
      programs["send.mjs"],
    ),
    block(
      "Kafka Connect, HTTP sink of Confluent",
      "From another Kafka (YOUR_KAFKA) to here; put a token in place of floe_TOKEN, or, where none is needed, leave it out of headers.",
      connect("kafka-connect-confluent.json"),
    ),
    block(
      "Kafka Connect, HTTP sink of Aiven",
      "As above; where no token is needed, http.authorization.type is none, and http.headers.authorization is left out.",
      connect("kafka-connect-aiven.json"),
    ),
  ];
}

function toStream(names) {
  return [
    h(
      "p",
      {},
      "Endpoint: ",
      h("code", {}, names.url + names.path),
      " or, for any form of JSON, ",
      h(
        "code",
        {},
        `${names.url + filled("/api/v1/streams/{stream}/events", names)}?table=floe.events.sales`,
      ),
    ),
    block("curl", "Each request names the table; its schema is the contract.", withNames(CURL_STREAM, names)),
  ];
}

/** Names that exist, for a box to choose from; the first 1,000. */
async function names() {
  const [topics, streams] = await Promise.all([
    api("GET", "/api/v1/topics", { query: { limit: 1000 } }),
    api("GET", "/api/v1/streams", { query: { limit: 1000 } }),
  ]);
  return { topics: topics.topics.map((it) => it.name), streams: streams.streams };
}

export async function connect(main, signal, query) {
  const told = h("div", {});
  const input = (id, value, list) =>
    h("input", { id, value, list, spellcheck: "false", autocomplete: "off" });
  const target = input("target", query.get("topic") ?? "orders", "topics");
  const kafka = input("kafka", `${location.hostname}:9092`);
  const secured = h("input", { type: "checkbox", id: "secured", checked: token() !== "" });
  const region = h("div", {});
  show(
    main,
    h("h1", {}, "Connect"),
    h("p", {}, "How to send events and read their table, with the names of this server filled in."),
    h("label", {}, "Topic or stream ", target),
    h(
      "label",
      {},
      "Address of the Kafka port ",
      kafka,
      h(
        "span",
        { class: "small" },
        " kafka.listen or kafka.advertise; 9092 is its default, this page cannot know it",
      ),
    ),
    h("label", {}, secured, " with a token"),
    told,
    h("datalist", { id: "topics" }),
    region,
  );
  const programs = await (
    await ask("GET", "/ui/{file}", { names: { file: "programs.json" }, signal })
  ).json();
  let known = { topics: [], streams: [] };
  let tables = new Map();
  const draw = async () => {
    const [chosen, url] = [target.value.trim(), location.origin];
    if (!PLAIN.test(chosen))
      return show(
        region,
        h("p", { class: "none" }, "Topics and streams have letters, digits, . _ and - in their names."),
      );
    const stream = known.streams.find(
      (it) => it.name === chosen && (query.get("stream") === chosen || !known.topics.includes(chosen)),
    );
    const table = stream ? stream.tables[0]?.table : tables.get(chosen);
    const all = {
      url,
      kafka: kafka.value.trim(),
      topic: chosen,
      stream: chosen,
      path: stream?.path,
      token: "floe_…",
    };
    all.table = table ?? (stream ? "events.sales" : `streams.${chosen.replace(/[^A-Za-z0-9_]/g, "_")}`);
    const send = stream ? toStream(all) : toTopic(all, secured.checked, programs);
    show(region, send, toRead(all, secured.checked));
  };
  for (const it of [target, kafka, secured]) it.addEventListener("input", draw, { signal });
  if (query.get("stream")) target.value = query.get("stream");
  await draw();
  try {
    known = await names();
    const listed = await api("GET", "/api/v1/tables", { query: { limit: 1000 } });
    tables = new Map(listed.tables.filter((it) => it.sink === null).map((it) => [it.topic, it.table]));
    const all = [...known.topics, ...known.streams.map((it) => it.name)];
    if (!query.get("topic") && !query.get("stream") && all.length && !all.includes("orders"))
      target.value = all[0];
    document.getElementById("topics")?.replaceChildren(...all.map((name) => h("option", { value: name })));
    await draw();
  } catch (error) {
    if (!signal.aborted) show(told, alertOf(error));
  }
}

/** Sends an event and shows what is answered, as it is. */
export function tryIt(main, signal, query) {
  const topic = h("input", {
    id: "topic",
    value: query.get("topic") ?? "orders",
    spellcheck: "false",
    autocomplete: "off",
  });
  const event = h("textarea", { id: "event", spellcheck: "false" });
  event.value = '{"id": 1, "name": "ada", "price": 1.5}';
  const ack = h(
    "select",
    { id: "ack" },
    ["durable", "committed", "accepted"].map((it) => h("option", {}, it)),
  );
  const told = h("div", { role: "status" });
  const send = h("button", {}, "Send");
  const onsubmit = async (submitted) => {
    submitted.preventDefault();
    send.disabled = true;
    show(told, h("p", { class: "small" }, "Sending …"));
    const began = performance.now();
    try {
      const wish = {
        names: { topic: topic.value.trim() },
        query: { ack: ack.value },
        body: event.value,
        signal,
      };
      const answer = await ask("POST", "/api/v1/topics/{topic}/events", wish);
      const text = await answer.text();
      const took = performance.now() - began;
      if (answer.status === 401) document.dispatchEvent(new CustomEvent("token-needed"));
      show(
        told,
        h(
          "p",
          {},
          h("strong", { class: answer.ok ? "good" : "bad" }, `${answer.status} ${answer.statusText}`),
          ` after ${took.toFixed(0)} ms, request ${answer.headers.get("x-request-id") ?? "without id"}`,
        ),
        h("pre", { tabindex: "0" }, pretty(text)),
        h("p", {}, h("a", { href: `#/topics/${encodeURIComponent(topic.value.trim())}` }, "See the topic")),
      );
    } catch (error) {
      if (!signal.aborted) show(told, alertOf(error));
    } finally {
      send.disabled = false;
    }
  };
  show(
    main,
    h("h1", {}, "Try it"),
    h(
      "p",
      {},
      "Sends one event, or several, as a program would. It is stored: a topic that is not there is made.",
    ),
    h(
      "form",
      { onsubmit },
      h("label", {}, "Topic ", topic),
      h("label", {}, "Event (JSON) ", event),
      h("label", {}, "Answer when it is ", ack),
      h("p", {}, send),
    ),
    told,
  );
}

/** Answers to events have no number that JavaScript would change but offsets, which are small. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 1);
  } catch {
    return text;
  }
}
