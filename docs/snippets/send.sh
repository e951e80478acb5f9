#!/bin/sh
# Sends JSON lines from standard input to a topic: in batches, compressed, each batch once.
#   FLOE_TOKEN=… ./send.sh orders < events.ndjson
set -eu
url=${FLOE_URL:-http://127.0.0.1:8080}/api/v1/topics/$1/events
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
split -a 4 -l 500 - "$work/batch-"
for batch in "$work"/batch-*; do
    [ -e "$batch" ] || continue
    # One key for all attempts: whatever happens in between, the batch is stored once.
    # --retry repeats 408, 429, 500, 502, 503 and 504, and waits as Retry-After says;
    # --retry-all-errors repeats connections that end without an answer.
    status=$(gzip -c "$batch" | curl -sS "$url" --data-binary @- \
        -o "$work/answer" -w '%{http_code}' --max-time 30 \
        --retry 60 --retry-max-time 600 --retry-connrefused --retry-all-errors \
        -H 'Content-Type: application/x-ndjson' -H 'Content-Encoding: gzip' \
        -H "Idempotency-Key: $(basename "$work")-$(basename "$batch")" \
        -H "token: ${FLOE_TOKEN:-}")
    case $status in
    2*) ;;
    *) cat "$work/answer" >&2; exit 1 ;;
    esac
done
