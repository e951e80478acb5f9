"""Sinks: a topic that a Kafka client feeds while the server is killed, with two mapped tables of it read back by engines."""

import json
import shutil
import subprocess

import pytest
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


ROUNDS, KEYS = 6, 200
KEYED = [
    {"type": "path", "name": "id", "path": "id", "dataType": "long", "primaryKey": True},
    {"type": "path", "name": "region", "path": "region", "rawString": True, "primaryKey": True},
    {"type": "path", "name": "round", "path": "round", "dataType": "long"},
]
# The newest value of a key lies in another partition of the second table each time.
KEYED_TABLES = {"keyed": "", "keyed_by_round": "(round)"}


def make_keyed(floe):
    options = {"table.mode": "off", "table.commit.min.interval.ms": 0}
    floe.post_json("/api/v1/topics", {"name": "orders", "partitions": 1, "options": options})
    for table, spec in KEYED_TABLES.items():
        put(floe, table, {"table": {"name": table}, "mapping": {"columns": KEYED}, "partition_spec": spec})


def post_keys(floe, round):
    """The same keys with newer values, and what a client sends that was not sure of its last request."""
    rows = [{"id": id, "region": f"r{id % 3}", "round": round} for id in range(KEYS)]
    body = "\n".join(json.dumps(row) for row in rows + rows[::7]).encode()
    for _ in range(2):
        floe.post("/api/v1/topics/orders/events", body, {"content-type": "application/x-ndjson"})


def flush_keyed(floe):
    for table in KEYED_TABLES:
        floe.flush(table)


@pytest.mark.compat("a sink's primary key: one row per key with the newest values", client="duckdb")
def test_keys_that_are_posted_again_and_again_are_one_row_each_with_the_newest_values(floe):
    make_keyed(floe)
    for round in range(ROUNDS):
        post_keys(floe, round)
        if round % 2:
            floe.kill()
            floe.start()
        flush_keyed(floe)
        for table in KEYED_TABLES:
            found = floe.duckdb().execute(
                f"SELECT count(*), count(DISTINCT (id, region)), min(round), max(round), min(id), max(id) FROM f.streams.{table}"
            )
            assert found.fetchone() == (KEYS, KEYS, round, round, 0, KEYS - 1), table
    floe.post_json("/api/v1/topics/orders/events", [{"region": "r0", "round": 9}, {"id": 7, "region": "r1", "round": 9}])
    flush_keyed(floe)
    for table in KEYED_TABLES:
        found = floe.duckdb().execute(f"SELECT id, region, round FROM f.streams.{table} WHERE round = 9").fetchall()
        assert found == [(7, "r1", 9)], table
        letters = floe.rows(f"streams.{table}__dlq").to_pylist()
        assert [(one["error_code"], one["field_path"]) for one in letters] == [("REQUIRED_FIELD_NULL", "id")]
        status = floe.get(f"/api/v1/tables/streams.{table}")
        rows, more = status["rows"], status["superseded_rows"]
        assert rows + more + status["dlq_rows"] == 2 * ROUNDS * (KEYS + len(range(0, KEYS, 7))) + 2
    # As docs/sinks.md says.
    with pytest.raises(ValueError, match="equality deletes"):
        floe.rows("streams.keyed")
