"""What Schemathesis cannot write by itself: bodies with one JSON value per line, and of bytes. And what it does not
tell: which operations it called, a line each with the status, in the file FLOE_CALLED."""

import json
import os

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


@schemathesis.serializer("application/x-protobuf")
def octets(ctx, value):
    if isinstance(value, bytes):
        return value
    # An example has a character for each byte.
    return value.encode("latin-1", "replace") if isinstance(value, str) else json.dumps(value).encode()


@schemathesis.hook
def after_call(context, case, response):
    with open(os.environ["FLOE_CALLED"], "a") as called:
        called.write(f"{case.operation.label} {response.status_code}\n")
