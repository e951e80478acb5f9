"""Sends JSON lines from standard input to a topic: in batches, compressed, each batch once.

FLOE_TOKEN=… python3 send.py orders < events.ndjson
"""

import gzip
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from itertools import islice

URL = os.environ.get("FLOE_URL", "http://127.0.0.1:8080")
TOKEN = os.environ.get("FLOE_TOKEN")


def send(topic, lines):
    headers = {
        "Content-Type": "application/x-ndjson",
        "Content-Encoding": "gzip",
        # One key for all attempts: whatever happens in between, the batch is stored once.
        "Idempotency-Key": str(uuid.uuid4()),
    }
    if TOKEN:
        headers["Authorization"] = f"Bearer {TOKEN}"
    body = gzip.compress(b"".join(lines))
    request = urllib.request.Request(f"{URL}/api/v1/topics/{topic}/events", body, headers)
    pause = 1
    while True:
        wait = pause
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()
                return
        except urllib.error.HTTPError as error:
            if error.code not in (408, 409, 429) and error.code < 500:
                sys.exit(f"refused: {error.code} {error.read().decode()}")
            wait = int(error.headers.get("Retry-After", pause))
        except (OSError, http.client.HTTPException) as error:
            print(f"no answer: {error}", file=sys.stderr)
        time.sleep(wait)
        pause = min(2 * pause, 30)


while batch := list(islice(sys.stdin.buffer, 500)):
    send(sys.argv[1], batch)
