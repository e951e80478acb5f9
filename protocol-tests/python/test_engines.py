"""PyIceberg and DuckDB as writers through our catalog while tiering goes on."""

import json

import pyarrow as pa
import pytest
from pyiceberg.exceptions import NamespaceNotEmptyError, NoSuchTableError, TableAlreadyExistsError

from conftest import assert_each_once, eventually, offsets_of


def events(floe, topic, rows):
    body = "\n".join(json.dumps(row) for row in rows).encode()
    return floe.post(f"/api/v1/topics/{topic}/events", body, {"content-type": "application/x-ndjson"})


@pytest.mark.compat("a table of its own: create, append, add column, delete, rename, purge", client="pyiceberg")
def test_pyiceberg_has_its_own_tables(floe):
    catalog = floe.catalog()
    catalog.create_namespace("mine", {"owner": "ada"})
    assert ("mine",) in catalog.list_namespaces()
    assert catalog.load_namespace_properties("mine")["owner"] == "ada"
    data = pa.table({"id": pa.array([1, 2], pa.int64()), "name": ["a", "b"]})
    table = catalog.create_table("mine.t", schema=data.schema)
    table.append(data)
    with table.update_schema() as update:
        update.add_column("note", __import__("pyiceberg.types", fromlist=["StringType"]).StringType())
    table.append(pa.table({"id": pa.array([3], pa.int64()), "name": ["c"], "note": ["n"]}))
    assert table.scan().to_arrow().num_rows == 3
    table.delete("id = 1")
    assert sorted(table.scan().to_arrow().column("id").to_pylist()) == [2, 3]
    with pytest.raises(TableAlreadyExistsError):
        catalog.create_table("mine.t", schema=data.schema)
    catalog.rename_table("mine.t", "mine.u")
    with pytest.raises(NoSuchTableError):
        catalog.load_table("mine.t")
    with pytest.raises(NamespaceNotEmptyError):
        catalog.drop_namespace("mine")
    catalog.purge_table("mine.u")
    catalog.drop_namespace("mine")


@pytest.mark.compat("appends to Floe's table between its commits", client="pyiceberg")
def test_foreign_appends_between_our_commits_lose_and_double_nothing(floe):
    events(floe, "shared", [{"id": 1}, {"id": 2}])
    floe.flush("shared")
    table = floe.catalog().load_table("streams.shared")
    foreign = pa.table({"id": pa.array([100], pa.int64())})
    table.append(foreign)
    events(floe, "shared", [{"id": 3}])
    floe.flush("shared")
    table.refresh()
    table.append(foreign)
    events(floe, "shared", [{"id": 4, "new": "column"}])
    floe.flush("shared")
    rows = floe.rows("streams.shared")
    assert sorted(rows.column("id").to_pylist()) == [1, 2, 3, 4, 100, 100]
    ours = [row for row in rows.column("floe").to_pylist() if row]
    assert_each_once([(row["partition"], row["offset"]) for row in ours])


@pytest.mark.compat("reads, creates a table, inserts, while Floe writes", client="duckdb")
def test_duckdb_reads_creates_and_inserts(floe):
    events(floe, "duck", [{"id": i, "name": f"n{i}"} for i in range(100)])
    floe.flush("duck")
    duck = floe.duckdb()
    assert duck.execute("select count(*), sum(id) from f.streams.duck").fetchone() == (100, 4950)
    duck.execute("create schema f.own")
    duck.execute("create table f.own.copy as select id, name from f.streams.duck")
    duck.execute("insert into f.own.copy values (1000, 'late')")
    assert duck.execute("select count(*) from f.own.copy").fetchone() == (101,)
    assert floe.rows("own.copy").num_rows == 101
    events(floe, "duck", [{"id": 1}])
    floe.flush("duck")
    assert floe.duckdb().execute("select count(*) from f.streams.duck").fetchone() == (101,)


def test_a_table_dropped_by_its_user_is_not_made_again_by_itself(floe_factory):
    floe = floe_factory("--table-target-lag", "1s")
    events(floe, "gone", [{"id": 1}])
    floe.flush("gone")
    floe.catalog().drop_table("streams.gone")
    events(floe, "gone", [{"id": 2}])
    status = eventually(lambda: (s := floe.get("/api/v1/tables/streams.gone"))["state"] != "RUNNING" and s)
    assert "floe table resume" in json.dumps(status)
    floe.post("/api/v1/tables/streams.gone/resume", b'{"from":"ledger"}', {"content-type": "application/json"})
    floe.flush("gone")
    assert floe.rows("streams.gone").column("id").to_pylist() == [2]


@pytest.mark.compat("adds and renames columns of Floe's table between its commits", client="pyiceberg")
def test_engines_alter_our_table_while_rows_land(floe_factory):
    floe = floe_factory("--table-target-lag", "1s")
    from pyiceberg.types import LongType, StringType

    events(floe, "altered", [{"id": 1, "name": "a"}])
    floe.flush("altered")
    table = floe.catalog().load_table("streams.altered")
    with table.update_schema() as update:
        update.add_column("by_user", StringType())
    with table.transaction() as change:
        change.set_properties(owner="ada")
    events(floe, "altered", [{"id": 2, "name": "b", "by_user": "u", "late": True}])
    floe.flush("altered")
    table.refresh()
    with table.update_schema() as update:
        update.rename_column("name", "title")
        update.add_column("note", LongType())
    events(floe, "altered", [{"id": 3, "title": "c", "note": 5}])
    floe.flush("altered")
    duck = floe.duckdb()
    duck.execute("alter table f.streams.altered add column duck varchar")
    events(floe, "altered", [{"id": 4, "duck": "quack"}])
    floe.flush("altered")
    found = floe.duckdb().execute(
        "select id, title, by_user, late, note, duck from f.streams.altered order by id"
    )
    assert found.fetchall() == [
        (1, "a", None, None, None, None),
        (2, "b", "u", True, None, None),
        (3, "c", None, None, 5, None),
        (4, None, None, None, None, "quack"),
    ]
    assert floe.catalog().load_table("streams.altered").properties["owner"] == "ada"
    assert floe.get("/api/v1/tables/streams.altered")["state"] == "RUNNING"


@pytest.mark.compat("reads and filters a table while Floe writes it", client="polars")
def test_polars_reads_a_table_while_rows_land(floe):
    import polars

    for batch in range(3):
        events(floe, "frame", [{"id": i, "name": f"n{i}", "nested": {"a": [i]}} for i in range(batch * 100, batch * 100 + 100)])
        floe.flush("frame")
        frame = polars.scan_iceberg(floe.catalog().load_table("streams.frame"))
        assert frame.select(polars.col("id").sum()).collect().item() == sum(range(batch * 100 + 100))
    late = frame.filter(polars.col("id") >= 250).select("id", "name", "nested").sort("id").collect()
    assert late.rows()[0] == (250, "n250", {"a": [250]}) and late.height == 50
    keys = frame.select(polars.col("floe").struct.field("partition"), polars.col("floe").struct.field("offset")).collect()
    assert keys.n_unique() == 300
