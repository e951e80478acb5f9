"""Event streams: a table that PyIceberg made, written by the sample clients of the route, read back by engines."""

import json
import subprocess
import time
import urllib.error
import urllib.request

import pyarrow as pa
import pytest

PATH = "/data-plane/prod/event-stream/shop/ingest"
TABLE = "floe.events.sales"


def make(floe):
    """The stream and its table, as a user makes them."""
    catalog = floe.catalog()
    catalog.create_namespace("events")
    schema = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            ("item", pa.string()),
            ("price", pa.decimal128(9, 2)),
            ("at", pa.timestamp("us", tz="UTC")),
            ("tags", pa.list_(pa.string())),
            ("place", pa.struct([("city", pa.string()), ("zip", pa.int32())])),
        ]
    )
    catalog.create_table("events.sales", schema=schema)
    floe.post_json("/api/v1/streams", {"name": "shop", "namespace": "prod"})


def send(floe, events, token="", pauses=(1, 2, 4)):
    """The sample client: again on anything but 200, after 1, 2 and 4 seconds."""
    headers = {"token": token, "table": TABLE, "Content-Type": "application/json"}
    statuses = []
    for pause in (*pauses, None):
        request = urllib.request.Request(floe.url + PATH, json.dumps(events).encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                statuses.append(response.status)
                if response.status == 200:
                    return json.load(response), statuses
        except urllib.error.HTTPError as error:
            statuses.append(error.code)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            statuses.append(None)
        if pause is not None:
            time.sleep(pause)
    return None, statuses


def flush(floe):
    return floe.post("/api/v1/tables/events.sales/flush")


@pytest.mark.compat("a stream's events in a table that PyIceberg made, read back", client="pyiceberg")
def test_a_stream_writes_to_a_table_that_pyiceberg_made(floe):
    make(floe)
    events = [
        {
            "id": i,
            "item": {"name": f"tea {i}", "weight": 1.10},
            "price": 2.5,
            "at": "2026-01-31T12:00:00.000001Z",
            "tags": ["a", 1, None],
            "place": {"city": "Brno", "zip": 60200, "unknown": True},
        }
        for i in range(3)
    ]
    answer, statuses = send(floe, events)
    assert statuses == [200] and answer["accepted"] == 3 and answer["table"] == TABLE
    refused, statuses = send(floe, [{"id": "x"}], pauses=())
    assert refused is None and statuses == [400]
    curl = [
        "curl",
        "-sS",
        floe.url + PATH,
        "-H",
        f"table: {TABLE}",
        "-H",
        "content-type: application/json",
        "-d",
        '[{"id": 3}]',
    ]
    assert json.loads(subprocess.run(curl, check=True, capture_output=True).stdout)["accepted"] == 1
    assert flush(floe)["rows"] == 4
    rows = sorted(floe.rows("events.sales").to_pylist(), key=lambda row: row["id"])
    assert [row["id"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["item"] == '{"name": "tea 0", "weight": 1.1}'
    assert str(rows[0]["price"]) == "2.50" and rows[0]["at"].microsecond == 1
    assert rows[0]["tags"] == ["a", "1", None] and rows[0]["place"] == {"city": "Brno", "zip": 60200}
    assert len({row["__id__"] for row in rows}) == 4
    assert all(row["__ts__"] is not None for row in rows)
    table = floe.catalog().load_table("events.sales")
    assert table.current_snapshot().summary["stream.write-id"] == rows[0]["__write_id__"]
    # Its owner goes on with it.
    table.append(pa.table({"id": pa.array([100], pa.int64())}, schema=pa.schema([pa.field("id", pa.int64(), nullable=False)])))
    send(floe, [{"id": 4}])
    flush(floe)
    assert floe.rows("events.sales").num_rows == 6


@pytest.mark.compat("a stream's events in a table of the catalog", client="duckdb")
def test_duckdb_reads_what_a_stream_wrote(floe):
    make(floe)
    send(floe, [{"id": i, "price": i} for i in range(10)])
    flush(floe)
    found = floe.duckdb().execute("select count(*), sum(id), count(distinct __id__) from f.events.sales").fetchone()
    assert found == (10, 45, 10)


def test_the_sample_client_gets_over_a_restart(floe_factory):
    floe = floe_factory()
    make(floe)
    send(floe, [{"id": 1}])
    floe.kill()
    floe.start()
    answer, statuses = send(floe, [{"id": 2}])
    assert answer is not None and statuses[-1] == 200
    flush(floe)
    assert sorted(floe.rows("events.sales").column("id").to_pylist()) == [1, 2]
