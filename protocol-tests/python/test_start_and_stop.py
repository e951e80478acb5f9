"""How the binary starts and stops: clear refusals, quiet and quick ends."""

import gzip
import json
import random
import socket
import struct
import subprocess
import time
import urllib.error

import pytest

from conftest import FLOE_BIN, eventually


# What does not end in its time is cut off, and the next start has more to do.
UNHURRIED = ("--shutdown-timeout", "60s")


def refused(*flags):
    """Exit code and last line of a start that must fail."""
    run = subprocess.run([FLOE_BIN, "serve", *flags], capture_output=True, timeout=60, text=True)
    return run.returncode, run.stderr.strip().splitlines()[-1]


def test_a_wrong_data_directory_is_named_with_what_to_do(tmp_path):
    (tmp_path / "afile").write_text("x")
    code, line = refused("--data-dir", str(tmp_path / "afile"), "--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    assert code == 1 and line.startswith("error: data.dir = ") and "name a folder" in line, line
    code, line = refused("--data-dir", str(tmp_path), "--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    assert code == 1 and "afile" in line and "empty folder" in line, line
    assert [path.name for path in tmp_path.iterdir()] == ["afile"], "it stays as it was"


def test_wrong_options_are_named_before_anything_is_made(tmp_path):
    data = ("--data-dir", str(tmp_path / "data"))
    code, line = refused(*data, "--catalog-warehouse", "relative/path")
    assert code == 2 and "catalog.warehouse" in line and "s3://" in line, line
    code, line = refused(*data, "--set", "nonsense=1")
    assert code == 2 and "nonsense" in line and "did you mean" not in line, line
    code, line = refused(*data, "--shutdown-timeout", "5")
    assert code == 2 and "shutdown.timeout" in line and "unit" in line, line
    assert not (tmp_path / "data").exists()


def test_a_url_without_scheme_is_shown_with_one():
    run = subprocess.run([FLOE_BIN, "table", "list", "--url", "127.0.0.1:9"], capture_output=True, timeout=60, text=True)
    assert run.returncode == 2 and "http://127.0.0.1:9" in run.stderr, run.stderr


def test_without_room_the_start_says_that_nothing_is_taken(tmp_path):
    process = subprocess.Popen(
        [
            FLOE_BIN, "serve", "--data-dir", str(tmp_path / "data"), "--kafka-listen", "127.0.0.1:0",
            "--http-listen", "127.0.0.1:0", "--disk-free-min-bytes", "900TiB",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        line = next(line for line in process.stdout if line.startswith("ready"))
        assert line.startswith("ready (no appends: ") and "900.0 TiB" in line, line
    finally:
        process.kill()
        process.wait()


def test_json_logs_are_json_only_and_a_clean_stop_leaves_nothing_to_adopt(floe_factory):
    floe = floe_factory("--log-format", "json", *UNHURRIED)
    floe.post("/api/v1/topics/t/events", b'{"a":1}')
    floe.flush("t")
    floe.stop()
    floe.start()
    floe.stop()
    lines = [line for line in floe.said().splitlines() if line.startswith("{")]
    events = [json.loads(line) for line in lines]
    messages = [event["fields"]["message"] for event in events]
    assert messages.count("stopped") == 2
    assert not any("adopted" in message for message in messages), messages
    recovered = [event["fields"] for event in events if event["fields"]["message"] == "log recovered"]
    assert all(isinstance(fields["durable"], int) for fields in recovered)
    assert "\nstopp" not in floe.said()
    added = [event["fields"] for event in events if event["fields"]["message"] == "table has new columns"]
    assert added[0]["names"] == "a"


def test_who_sees_it_ready_may_end_it_at_once(floe_factory):
    floe = floe_factory(*UNHURRIED)
    floe.post("/api/v1/topics/t/events", b'{"a":1}')
    floe.stop()
    for _ in range(10):
        floe.start()
        floe.stop()
    assert "adopted" not in floe.said()


def fetch(topic: str, partition: int, wait_ms: int, bytes_max: int) -> bytes:
    """A Fetch request of version 4 from offset 0."""
    name = topic.encode()
    body = struct.pack(">iiiib", -1, wait_ms, 1, bytes_max, 0)
    body += struct.pack(">ih", 1, len(name)) + name
    body += struct.pack(">iiqi", 1, partition, 0, bytes_max)
    frame = struct.pack(">hhih", 1, 4, 7, 1) + b"t" + body
    return struct.pack(">i", len(frame)) + frame


def test_consumers_do_not_hold_up_the_end(floe_factory):
    # Requests in flight get 5 s, and all that runs 10 s until the log says that it did not end in time.
    floe = floe_factory("--shutdown-timeout", "40s")
    topic = {"name": "t", "partitions": 2}
    floe.post("/api/v1/topics", json.dumps(topic).encode())
    noise = random.Random(1)
    for _ in range(20):
        rows = [json.dumps({"t": "%x" % noise.getrandbits(400_000)}) for _ in range(10)]
        floe.post("/api/v1/topics/t/events?partition=0", "\n".join(rows).encode(), {"content-type": "application/x-ndjson"})
    floe.flush("t")
    connections = []
    # One reads nothing of a large answer, one polls for long, one sleeps, one sent half a frame.
    for sent in [fetch("t", 0, 0, 50 << 20), fetch("t", 1, 60_000, 1 << 20), b"", fetch("t", 0, 0, 1)[:20]]:
        connection = socket.create_connection(("127.0.0.1", floe.kafka_port))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(sent)
        connections.append(connection)
    # An HTTP client in the middle of its body.
    half = socket.create_connection(("127.0.0.1", floe.http_port))
    half.sendall(b"POST /api/v1/topics/t/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
    connections.append(half)
    time.sleep(0.5)
    began = time.monotonic()
    floe.stop()
    took = time.monotonic() - began
    assert took < 20, took
    assert "did not end in time" not in floe.said(), floe.tail()
    for connection in connections:
        connection.close()


def test_a_bad_request_makes_no_topic_and_names_its_parameter(floe):
    def problem(path, body=b'{"a":1}', headers=None):
        try:
            floe.post(path, body, headers)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["detail"]
        raise AssertionError("it was accepted")

    events = "/api/v1/topics/none/events"
    for path, word in [
        (f"{events}?partition=-1", "partition=-1"),
        (f"{events}?timestamp=now", "timestamp=now"),
        (f"{events}?nope=1", "nope"),
        (f"{events}?ack=all", "ack=all"),
    ]:
        code, detail = problem(path)
        assert code == 400 and word in detail, detail
    assert problem(events, b"[]") == (400, "the body is empty: there is no event in it")
    assert problem(events, b'{"a":')[0] == 400
    assert problem(f"{events}?key=a", headers={"X-Kafka-Key": "b"})[0] == 400
    assert problem(events, headers={"X-Kafka-Header-floe.id": "b"})[0] == 400
    code, detail = problem("/api/v1/topics", b"")
    assert code == 400 and "empty" in detail, detail
    code, detail = problem("/api/v1/topics", b'{"name":"x","partitions":-1}')
    assert code == 400 and "-1" in detail, detail
    assert eventually(lambda: floe.get("/api/v1/topics"))["topics"] == []


def test_times_of_events_obey_the_topic_and_the_calendar(floe):
    floe.post("/api/v1/topics", b'{"name":"t","options":{"message.timestamp.before.max.ms":3600000}}')

    def sent(topic, time_text):
        try:
            return floe.post(f"/api/v1/topics/{topic}/events?timestamp=$.t", b'{"t":%s}' % time_text)["accepted"]
        except urllib.error.HTTPError as error:
            return json.load(error)["errors"][0]["code"]

    assert sent("t", b"%d" % (time.time() * 1000)) == 1
    assert sent("t", b'"2020-01-01T00:00:00Z"') == "bad_timestamp"
    assert sent("u", b'"2020-01-01T00:00:00Z"') == 1
    for text in [b"-1", b'"1969-12-31T00:00:00Z"', b"253402300800000"]:
        assert sent("u", text) == "bad_timestamp", text


def test_a_body_that_compresses_a_hundredfold_is_taken_unless_the_server_says_less(floe_factory):
    body = b'{"a":"%s"}\n' % (b"x" * 100) * 90_000
    headers = {"content-type": "application/x-ndjson", "content-encoding": "gzip"}
    packed = gzip.compress(body)
    assert len(packed) * 200 < len(body)
    with pytest.raises(urllib.error.HTTPError) as error:
        less = floe_factory("--http-inflation-max", "100")
        less.post("/api/v1/topics/t/events", packed, headers)
    assert error.value.code == 413 and "http.inflation.max = 100" in json.load(error.value)["detail"]
    assert floe_factory().post("/api/v1/topics/t/events", packed, headers)["accepted"] == 90_000
