"""Spark through our catalog on tables that Floe writes at that moment; one session for all tests."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clients import ENV
from conftest import FLOE_BIN, Floe, assert_each_once, eventually, offsets_of
from test_sinks import KEYED_TABLES, KEYS, flush_keyed, make_keyed, post_keys

SPARK = ENV / "spark"
JARS = sorted(SPARK.glob("iceberg-spark-runtime-*.jar"))
EXTENSIONS = "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


def versions():
    spark = next(SPARK.glob("pyspark-*.dist-info"), Path("pyspark-3.5")).name.split("-")[1].removesuffix(".dist")
    iceberg = JARS[0].stem.rsplit("-", 1)[1] if JARS else "1"
    return ("Spark with Iceberg", f"{spark}, {iceberg}")


def compat(what):
    return pytest.mark.compat(what, client=versions())


@pytest.fixture(scope="module")
def floe(tmp_path_factory):
    if (SPARK / "missing").exists():
        pytest.skip((SPARK / "missing").read_text().strip())
    server = Floe(tmp_path_factory.mktemp("spark"), "--table-target-lag", "1s")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def spark(floe):
    sys.path.insert(0, str(SPARK))
    from pyspark.sql import SparkSession

    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    options = {
        "spark.jars": str(JARS[0]),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.driver.extraJavaOptions": JAVA_OPTIONS,
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": str(floe.directory / "spark-warehouse"),
        "spark.sql.extensions": EXTENSIONS,
        "spark.sql.catalog.f": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.f.type": "rest",
        "spark.sql.catalog.f.uri": f"{floe.url}/iceberg",
        # A session sees what others commit at once.
        "spark.sql.catalog.f.cache-enabled": "false",
    }
    builder = SparkSession.builder.master("local[2]")
    for key, value in options.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


class Writer:
    """Appends numbered events all the time until the block ends; `sent` is how many were acknowledged."""

    def __init__(self, floe, topic, start=0):
        self.floe, self.topic, self.sent = floe, topic, start
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.error = None

    def run(self):
        try:
            while not self.stop.is_set():
                events(self.floe, self.topic, [{"i": i} for i in range(self.sent, self.sent + 20)])
                self.sent += 20
                time.sleep(0.02)
        except OSError as error:
            self.error = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        assert self.error is None, self.error


def events(floe, topic, rows):
    body = "\n".join(json.dumps(row) for row in rows).encode()
    floe.post(f"/api/v1/topics/{topic}/events", body, {"content-type": "application/x-ndjson"})


def commits(floe, topic):
    tables = floe.get("/api/v1/tables")["tables"]
    return next((table["commits"] for table in tables if table["topic"] == topic), 0)


def more_commits(floe, topic, count=2):
    """Waits for commits of Floe, so that whatever came before stands between two of them."""
    begun = commits(floe, topic)
    eventually(lambda: commits(floe, topic) >= begun + count)


def be_patient(spark, table):
    """Floe commits every second: who is slow loses the race to it more than four times."""
    spark.sql(
        f"alter table f.{table} set tblproperties ('commit.retry.num-retries' = '50', 'commit.retry.max-wait-ms' = '500')"
    )


def one(spark, query):
    return spark.sql(query).collect()[0]


def expire_all(spark, table):
    """Expires every snapshot but the newest."""
    now = one(spark, "select string(current_timestamp())")[0]
    return one(
        spark,
        f"call f.system.expire_snapshots(table => '{table}', older_than => timestamp '{now}', retain_last => 1)",
    )


def assert_exactly_once(floe, topic, count, foreign=0):
    """The table holds events 0 to count - 1 once each, and `foreign` rows of others."""
    floe.flush(topic)
    assert floe.get(f"/api/v1/tables/streams.{topic}")["state"] == "RUNNING"
    rows = floe.rows(f"streams.{topic}")
    ours = [row for row in rows.column("floe").to_pylist() if row]
    assert_each_once([(row["partition"], row["offset"]) for row in ours])
    assert len(ours) == count
    assert rows.num_rows == count + foreign
    numbers = [row["i"] for row in rows.select(["floe", "i"]).to_pylist() if row["floe"]]
    assert sorted(numbers) == list(range(count))


@compat("reads a table while Floe writes it")
def test_reads_are_consistent_while_rows_land(floe, spark):
    with Writer(floe, "read") as writer:
        more_commits(floe, "read", 1)
        seen = []
        for _ in range(5):
            row = one(
                spark,
                "select count(*), count(distinct floe.partition, floe.offset), count(distinct i) from f.streams.read",
            )
            assert row[0] == row[1] == row[2]
            seen.append(row[0])
            more_commits(floe, "read", 1)
        assert seen == sorted(set(seen)), "each look sees more"
    floe.flush("read")
    assert one(spark, "select count(*), max(i) from f.streams.read") == (writer.sent, writer.sent - 1)
    assert_exactly_once(floe, "read", writer.sent)


@compat("a table of its own: create as select, insert, update, delete, merge, rename, drop")
def test_has_its_own_tables(floe, spark):
    events(floe, "source", [{"id": i, "name": f"n{i}"} for i in range(10)])
    floe.flush("source")
    spark.sql("create namespace if not exists f.own")
    spark.sql("create table f.own.copy using iceberg as select id, name, floe.offset from f.streams.source")
    spark.sql("insert into f.own.copy values (100, 'late', null)")
    spark.sql("update f.own.copy set name = 'changed' where id = 1")
    spark.sql("delete from f.own.copy where id = 2")
    spark.sql(
        "merge into f.own.copy t using (select 3 id, 'merged' name union select 101, 'new') s on t.id = s.id "
        "when matched then update set name = s.name when not matched then insert (id, name) values (s.id, s.name)"
    )
    rows = {row["id"]: row["name"] for row in floe.rows("own.copy").to_pylist()}
    assert len(rows) == 11 and 2 not in rows
    assert (rows[1], rows[3], rows[100], rows[101]) == ("changed", "merged", "late", "new")
    spark.sql("alter table f.own.copy rename to own.renamed")
    assert floe.catalog().table_exists("own.renamed")
    spark.sql("drop table f.own.renamed purge")
    spark.sql("drop namespace f.own")


@compat("appends to Floe's table and adds columns between its commits")
def test_appends_and_added_columns_between_our_commits(floe, spark):
    with Writer(floe, "shared") as writer:
        more_commits(floe, "shared", 1)
        be_patient(spark, "streams.shared")
        for round in range(3):
            columns = spark.table("f.streams.shared").columns
            values = [str(-1 - round) if name == "i" else "null" for name in columns]
            spark.sql(f"insert into f.streams.shared ({', '.join(columns)}) values ({', '.join(values)})")
            spark.sql(f"alter table f.streams.shared add column spark_{round} string")
            more_commits(floe, "shared")
    events(floe, "shared", [{"i": writer.sent, "spark_0": "filled"}])
    assert_exactly_once(floe, "shared", writer.sent + 1, foreign=3)
    assert one(spark, "select count(*) from f.streams.shared where spark_0 = 'filled'") == (1,)


@compat("rewrite_data_files, rewrite_manifests, expire_snapshots while Floe writes")
def test_compaction_and_expiry_between_our_commits(floe, spark):
    with Writer(floe, "kept") as writer:
        more_commits(floe, "kept", 3)
        be_patient(spark, "streams.kept")
        options = "map('min-input-files', '2', 'partial-progress.enabled', 'false')"
        rewritten = one(spark, f"call f.system.rewrite_data_files(table => 'streams.kept', options => {options})")
        assert rewritten["rewritten_data_files_count"] >= 2
        more_commits(floe, "kept")
        spark.sql("call f.system.rewrite_manifests('streams.kept')")
        more_commits(floe, "kept")
        assert expire_all(spark, "streams.kept")["deleted_data_files_count"] >= 2
        more_commits(floe, "kept")
    assert_exactly_once(floe, "kept", writer.sent)
    # Now no snapshot of Floe's is left: only the table's properties tell it where the table ends.
    rewritten = one(spark, f"call f.system.rewrite_data_files(table => 'streams.kept', options => {options})")
    assert rewritten["rewritten_data_files_count"] >= 2
    expire_all(spark, "streams.kept")
    assert one(spark, "select count(*), max(operation) from f.streams.kept.snapshots") == (1, "replace")
    floe.kill()
    floe.start()
    events(floe, "kept", [{"i": writer.sent}])
    assert_exactly_once(floe, "kept", writer.sent + 1)


@compat("rollback_to_snapshot: Floe stops, names the command, and goes on with it")
def test_a_rollback_stops_the_table_until_it_is_resumed(floe, spark):
    for batch in range(3):
        events(floe, "rolled", [{"i": i} for i in range(batch * 10, batch * 10 + 10)])
        floe.flush("rolled")
    snapshots = spark.sql("select snapshot_id from f.streams.rolled.snapshots order by committed_at").collect()
    spark.sql(f"call f.system.rollback_to_snapshot('streams.rolled', {snapshots[0][0]})")
    events(floe, "rolled", [{"i": i} for i in range(30, 40)])

    def stopped():
        status = floe.get("/api/v1/tables/streams.rolled")
        return status if status["state"] not in ("RUNNING", "RETRYING") else None

    status = eventually(stopped)
    assert status["state"] == "ROLLED_BACK"
    assert one(spark, "select count(*) from f.streams.rolled") == (10,), "nothing was written past a rollback"
    assert "floe table resume streams.rolled --from table" in status["resume"]
    command = [FLOE_BIN, "table", "resume", "streams.rolled", "--from", "table", "--url", floe.url]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert_exactly_once(floe, "rolled", 40)
    assert one(spark, "select count(*), count(distinct i) from f.streams.rolled") == (40, 40)


@compat("a sink's primary key: one row per key with the newest values, before and after rewrite_data_files")
def test_keys_that_are_posted_again_and_again_are_one_row_each(floe, spark):
    make_keyed(floe)
    wanted = "select count(*), count(distinct id, region), min(round), max(round) from f.streams"
    for round in range(4):
        post_keys(floe, round)
        flush_keyed(floe)
    for table in KEYED_TABLES:
        assert one(spark, f"{wanted}.{table}") == (KEYS, KEYS, 3, 3), table
        deletes = one(spark, f"select count(*), sum(record_count) from f.streams.{table}.delete_files")
        assert deletes[0] >= 3 and deletes[1] >= 3 * KEYS
        options = "map('rewrite-all', 'true')"
        spark.sql(f"call f.system.rewrite_data_files(table => 'streams.{table}', options => {options})")
        assert one(spark, f"{wanted}.{table}") == (KEYS, KEYS, 3, 3), table
        assert one(spark, f"select sum(record_count) from f.streams.{table}.files where content = 0") == (KEYS,)
    post_keys(floe, 4)
    flush_keyed(floe)
    for table in KEYED_TABLES:
        assert one(spark, f"{wanted}.{table}") == (KEYS, KEYS, 4, 4), table
        assert floe.get(f"/api/v1/tables/streams.{table}")["state"] == "RUNNING"
