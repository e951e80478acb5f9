// Sends JSON lines from standard input to a topic: in batches, compressed, each batch once.
//   FLOE_TOKEN=… node send.mjs orders < events.ndjson
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";

const url = process.env.FLOE_URL ?? "http://127.0.0.1:8080";
const token = process.env.FLOE_TOKEN;

async function send(topic, lines) {
  const headers = {
    "Content-Type": "application/x-ndjson",
    "Content-Encoding": "gzip",
    // One key for all attempts: whatever happens in between, the batch is stored once.
    "Idempotency-Key": randomUUID(),
    ...(token && { Authorization: `Bearer ${token}` }),
  };
  const body = gzipSync(lines.join("\n"));
  for (let pause = 1; ; pause = Math.min(2 * pause, 30)) {
    let wait = pause;
    try {
      const answer = await fetch(`${url}/api/v1/topics/${topic}/events`, {
        method: "POST", headers, body, signal: AbortSignal.timeout(30_000),
      });
      const text = await answer.text();
      if (answer.ok) return;
      if (answer.status < 500 && ![408, 409, 429].includes(answer.status)) {
        console.error(`refused: ${answer.status} ${text}`);
        process.exit(1);
      }
      wait = Number(answer.headers.get("Retry-After") ?? pause);
    } catch (error) {
      console.error(`no answer: ${error.cause ?? error}`);
    }
    await sleep(1000 * wait);
  }
}

let batch = [];
for await (const line of createInterface({ input: process.stdin })) {
  if (batch.push(line) === 500) await send(process.argv[2], batch.splice(0));
}
if (batch.length) await send(process.argv[2], batch);
