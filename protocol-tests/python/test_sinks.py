"""Sinks: a topic that a Kafka client feeds while the server is killed, with two mapped tables of it read back by engines."""

import json
import shutil
import subprocess

from conftest import eventually
from confluent_kafka import Producer

COUNT = 3_000


def put(floe, sink, body):
    """Makes a sink as a user does, with curl."""
    url = f"{floe.url}/api/v1/topics/orders/sinks/{sink}"
    command = ["curl", "-sS", "--fail-with-body", "-X", "PUT", url, "-d", json.dumps(body)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def value(number):
    """One in ten has no price, one in a hundred is no JSON."""
    if number % 100 == 99:
        return f"order {number}".encode()
    order = {"id": number, "customer": {"name": f"c{number}", "tags": ["a", f"t{number}"]}}
    if number % 10:
        order["price"] = number / 4
    return json.dumps(order).encode()


def test_two_sinks_of_a_topic_have_exact_rows_after_kills(floe):
    floe.post_json("/api/v1/topics", {"name": "orders", "partitions": 3, "options": {"table.commit.min.interval.ms": 0}})
    columns = [
        {"type": "path", "name": "id", "path": "id", "dataType": "long"},
        {"type": "path", "name": "price", "path": "price", "dataType": "double"},
    ]
    prices = put(floe, "prices", {"table": {"name": "prices"}, "mapping": {"columns": columns}, "commit": {"records": 200}})
    assert prices["version"] == 1 and prices["status"]["state"] == "WAITING"
    columns = [
        {"type": "uuid", "name": "event"},
        {"type": "body", "name": "raw"},
        {"type": "headers", "name": "headers"},
    ]
    put(floe, "raws", {"table": {"namespace": "other", "name": "raws"}, "mapping": {"columns": columns}, "commit": {"lag_ms": 1_000}})
    producer = Producer({"bootstrap.servers": floe.bootstrap, "enable.idempotence": True, "linger.ms": 5})
    for number in range(COUNT):
        producer.produce("orders", value(number), partition=number % 3, headers=[("content-type", b"application/json")])
        producer.poll(0)
        if number % 1_000 == 500:
            assert producer.flush(60) == 0
            floe.kill()
            if number == 1_500:
                # All but the log is lost: sinks and their progress are in it.
                shutil.rmtree(floe.directory / "data" / "state")
            floe.start()
    assert producer.flush(60) == 0
    floe.kill()
    floe.start()
    for table in ("streams.prices", "other.raws", "streams.orders"):
        floe.post(f"/api/v1/tables/{table}/flush")

    good = [n for n in range(COUNT) if n % 10 and n % 100 != 99]
    rows = floe.rows("streams.prices")
    assert rows.column_names == ["floe", "id", "price"]
    assert sorted(rows["id"].to_pylist()) == good
    assert all(row["price"] == row["id"] / 4 for row in rows.to_pylist())
    letters = floe.rows("streams.prices__dlq").to_pylist()
    found = sorted((letter["error_code"], letter["field_path"]) for letter in letters)
    # One in a hundred is no JSON at all: its first column says so.
    assert found.count(("JSON_PARSE", "id")) == COUNT // 100
    assert found.count(("REQUIRED_FIELD_NULL", "price")) == COUNT // 10
    assert len(found) == COUNT - len(good)

    rows = floe.duckdb().execute("SELECT event, raw, headers FROM f.other.raws").fetchall()
    assert sorted(row[1] for row in rows) == sorted(value(number).decode() for number in range(COUNT))
    assert len({row[0] for row in rows}) == COUNT
    assert {row[2] for row in rows} == {'{"Content-Type":"application/json"}'}
    assert floe.rows("streams.orders").num_rows == COUNT

    sinks = {sink["id"]: sink["status"] for sink in floe.get("/api/v1/topics/orders/sinks")["sinks"]}
    assert (sinks["prices"]["rows"], sinks["prices"]["dlq_rows"]) == (len(good), COUNT - len(good))
    assert (sinks["raws"]["rows"], sinks["raws"]["dlq_rows"]) == (COUNT, 0)
    assert {status["state"] for status in sinks.values()} == {"RUNNING"}

    def all_tiered():
        partitions = floe.get("/api/v1/topics/orders")["partitions"]
        return all(one["tiered_offset"] == one["high_watermark"] for one in partitions)

    eventually(all_tiered)
