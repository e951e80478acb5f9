"""How a client program is driven: one JSON request a line on stdin, one JSON answer a line on stdout.

A request is `{"op": NAME, ...arguments}`, an answer `{"ok": RESULT}` or `{"failed": TEXT}`. The operations,
the same in every language:

- `produce {topic, codec, idempotent, records}`: sends them in order and waits for every acknowledgement.
- `fetch {topic, partitions}`: all records from beginning to end, by assignment, without a group.
- `admin {topic}`: makes the topic with 3 partitions, describes, alters, grows and deletes it.
- `ensure {topic}`: makes the topic with broker defaults if it is absent, as frameworks do at start; tells whether it was made.
- `subscribe {topic}`: joins a group and polls; tells the error that the client shows.
- `transactions {}`: begins transactional work; tells the error that the client shows.

`KAFKA_TOKEN` in the environment is the password for SASL/PLAIN over plain TCP; the user name is `user`.

A record is `{partition, key, value, headers: [[name, value]], timestamp}`, bytes in base64, absent as null.
"""

import base64
import json
import os
import sys
import traceback


TOKEN = os.environ.get("KAFKA_TOKEN")


def sasl():
    """Settings of kafka-python and aiokafka."""
    if not TOKEN:
        return {}
    return {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "user",
        "sasl_plain_password": TOKEN,
    }


def unpack(data):
    return None if data is None else base64.b64decode(data)


def pack(data):
    return None if data is None else base64.b64encode(bytes(data)).decode()


def record(partition, key, value, headers, timestamp):
    """A record as it goes over the pipe."""
    pairs = [[name, pack(content)] for name, content in headers or []]
    return {
        "partition": partition,
        "key": pack(key),
        "value": pack(value),
        "headers": pairs,
        "timestamp": timestamp,
    }


def headers_of(sent):
    return [(name, unpack(content)) for name, content in sent["headers"]]


def serve(client):
    """Answers requests with the methods of `client` until stdin ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": getattr(client, request.pop("op"))(**request)}
        except Exception as error:
            traceback.print_exc()
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
