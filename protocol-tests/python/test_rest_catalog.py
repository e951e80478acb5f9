"""Iceberg's own REST catalog keeps the tables: it is killed, other writers come in between, tables are dropped."""

import json
import os
import subprocess
import threading
import urllib.request

import pyarrow
import pytest
from pyiceberg.types import StringType

from clients import ENV
from conftest import assert_each_once, eventually, free_port, offsets_of

JARS = ENV / "rest_catalog"
SERVER = "org.apache.iceberg.rest.RESTCatalogServer"


def version():
    jar = next(JARS.glob("iceberg-open-api-*.jar"), None)
    return jar.stem.split("-")[3] if jar else "1"


def compat(what):
    return pytest.mark.compat(what, client=("Iceberg REST catalog (its test fixture)", version()))


class RestCatalog:
    """The catalog's process; tables and port outlive a kill."""

    def __init__(self, directory):
        self.directory, self.port = directory, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        self.start()

    def start(self):
        environment = dict(
            os.environ,
            CATALOG_REST_PORT=str(self.port),
            CATALOG_WAREHOUSE=str(self.directory / "warehouse"),
            CATALOG_URI=f"jdbc:sqlite:file:{self.directory / 'catalog.db'}",
        )
        command = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{JARS}/*", SERVER]
        with open(self.directory / "catalog.log", "ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        eventually(self.answers, timeout_s=300)

    def answers(self):
        assert self.process.poll() is None, (self.directory / "catalog.log").read_text()[-4000:]
        try:
            return urllib.request.urlopen(f"{self.url}/v1/config", timeout=5).status == 200
        except OSError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()

    def client(self):
        from pyiceberg.catalog import load_catalog

        return load_catalog("keeper", type="rest", uri=self.url)


@pytest.fixture
def keeper(tmp_path):
    if (JARS / "missing").exists():
        pytest.skip((JARS / "missing").read_text().strip())
    catalog = RestCatalog(tmp_path)
    yield catalog
    catalog.kill()


def events(floe, topic, numbers):
    body = "\n".join(json.dumps({"i": i, "name": f"n{i}"}) for i in numbers).encode()
    floe.post(f"/api/v1/topics/{topic}/events", body, {"content-type": "application/x-ndjson"})


def rows(keeper, topic):
    return keeper.client().load_table(f"streams.{topic}").scan().to_arrow()


def state(floe, topic):
    return floe.get(f"/api/v1/tables/streams.{topic}")["state"]


@compat("keeps Floe's tables; killed for a while under load, and Floe killed meanwhile")
def test_a_catalog_that_dies_costs_producers_nothing(floe_factory, keeper):
    floe = floe_factory("--catalog-uri", keeper.url, "--table-target-lag", "1s")
    events(floe, "t", range(100))
    floe.flush("t")
    assert sorted(rows(keeper, "t").column("i").to_pylist()) == list(range(100))
    keeper.kill()
    for batch in range(1, 6):
        events(floe, "t", range(batch * 100, batch * 100 + 100))
    assert eventually(lambda: state(floe, "t") == "RETRYING")
    floe.kill()
    floe.start()
    events(floe, "t", range(600, 700))
    keeper.start()
    eventually(lambda: rows(keeper, "t").num_rows == 700)
    found = rows(keeper, "t")
    assert_each_once(offsets_of(found))
    assert sorted(found.column("i").to_pylist()) == list(range(700))
    # The rows are there before the answer of the catalog is.
    eventually(lambda: state(floe, "t") == "RUNNING")


@compat("other writers append, expire snapshots and change the schema between Floe's commits")
def test_other_writers_between_our_commits(floe_factory, keeper):
    floe = floe_factory("--catalog-uri", keeper.url, "--table-target-lag", "1s")
    events(floe, "t", range(10))
    floe.flush("t")
    # Floe commits every second: who is slow loses the race to it more than four times.
    with keeper.client().load_table("streams.t").transaction() as change:
        change.set_properties({"commit.retry.num-retries": "50", "commit.retry.max-wait-ms": "500"})
    stop, sent = threading.Event(), [10]

    def load():
        while not stop.is_set():
            events(floe, "t", range(sent[0], sent[0] + 10))
            sent[0] += 10
            stop.wait(0.05)

    writer = threading.Thread(target=load)
    writer.start()
    try:
        for turn in range(4):
            table = keeper.client().load_table("streams.t")
            foreign = table.scan().to_arrow().slice(0, 1)
            index = foreign.schema.get_field_index("floe")
            nothing = pyarrow.nulls(1, foreign.schema.field(index).type)
            table.append(foreign.set_column(index, foreign.schema.field(index), nothing))
            with table.update_schema() as update:
                update.add_column(f"theirs{turn}", StringType())
            table.refresh()
            old = [s.snapshot_id for s in table.snapshots() if s.snapshot_id != table.current_snapshot().snapshot_id]
            table.maintenance.expire_snapshots().by_ids(old).commit()
    finally:
        stop.set()
        writer.join()
    floe.flush("t")
    found = rows(keeper, "t")
    ours = [row for row in found.select(["floe", "i"]).to_pylist() if row["floe"]]
    assert_each_once([(row["floe"]["partition"], row["floe"]["offset"]) for row in ours])
    assert sorted(row["i"] for row in ours) == list(range(sent[0]))
    assert found.num_rows == sent[0] + 4


@compat("a table that its user drops: Floe stops, and makes a new one when it is told")
def test_a_dropped_table_stops_until_it_is_resumed(floe_factory, keeper):
    floe = floe_factory("--catalog-uri", keeper.url, "--table-target-lag", "1s")
    events(floe, "t", range(10))
    floe.flush("t")
    keeper.client().drop_table("streams.t")
    events(floe, "t", range(10, 20))
    assert eventually(lambda: state(floe, "t") == "TABLE_DROPPED")
    floe.post("/api/v1/tables/streams.t/resume", b'{"from": "log-start"}', {"content-type": "application/json"})
    floe.flush("t")
    assert sorted(rows(keeper, "t").column("i").to_pylist()) == list(range(20))
