"""What a newcomer does in the first hour: kcat and curl in, PyIceberg and DuckDB out."""

import json
import subprocess

import pytest

import batches
from conftest import assert_each_once, eventually, offsets_of


def kcat(*arguments, data=None):
    run = subprocess.run(["kcat", *arguments], input=data, capture_output=True, timeout=60)
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout


@pytest.mark.compat("JSON as typed rows a second later, read back as a topic", client="kcat")
def test_kcat_json_is_a_typed_row_a_second_later_and_reads_back_the_same(floe):
    lines = [b'{"id":1,"name":"ada","price":1.5,"ok":true}', b'{"id":2,"name":"bob","price":2.25,"ok":false}']
    kcat("-b", floe.bootstrap, "-t", "orders", "-P", data=b"\n".join(lines) + b"\n")

    def landed():
        try:
            rows = floe.rows("streams.orders")
        except Exception as error:  # the table is made with the first commit
            assert "does not exist" in str(error).lower() or "nosuch" in type(error).__name__.lower(), error
            return None
        return rows if rows.num_rows == 2 else None

    # The first rows do not wait for table.target.lag, a minute.
    rows = eventually(landed, timeout_s=30)
    found = sorted(rows.select(["id", "name", "price", "ok"]).to_pylist(), key=lambda row: row["id"])
    assert found == [json.loads(line) for line in lines]
    kinds = {field.name: str(field.type) for field in rows.schema}
    assert (kinds["id"], kinds["price"], kinds["ok"]) == ("int64", "double", "bool")
    assert kinds["name"] in ("string", "large_string")

    typed = floe.duckdb().execute("select id, name, price, ok from f.streams.orders order by id").fetchall()
    assert typed == [(1, "ada", 1.5, True), (2, "bob", 2.25, False)]

    back = kcat("-b", floe.bootstrap, "-t", "orders", "-C", "-e", "-q", "-o", "beginning")
    assert sorted(back.splitlines()) == sorted(lines)


@pytest.mark.compat("every codec: keys, headers, null values; read back the same", client="kcat")
def test_kcat_sends_every_codec_and_reads_back_the_same(floe):
    expected = []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        flags = ["-K", ":", "-Z", "-H", f"codec={codec}", "-H", "h=2", "-p", "0", "-z", codec]
        kcat("-b", floe.bootstrap, "-t", "codecs", "-P", *flags, data=f"a:{codec * 200}\ngone:\n".encode())
        expected += [f"a|{codec * 200}|codec={codec},h=2", f"gone||codec={codec},h=2"]
    # A slow machine may send the two records in two batches.
    stored = [codec for codec, _ in batches.fetch(floe.bootstrap, "codecs", 0)]
    assert list(dict.fromkeys(stored)) == list(batches.CODECS)
    back = kcat("-b", floe.bootstrap, "-t", "codecs", "-C", "-e", "-q", "-o", "beginning", "-f", "%k|%s|%h\n")
    assert back.decode().splitlines() == expected
    floe.flush("codecs")
    rows = floe.rows("streams.codecs").to_pylist()
    assert sorted(row["_value"] or "" for row in rows) == sorted(line.split("|")[1] for line in expected)
    assert [row["_value"] for row in rows if row["floe"]["key"] == b"gone"] == [None] * 5


@pytest.mark.compat("consumer group", client="kcat")
def test_kcat_is_told_that_there_are_no_groups(floe, compat_note):
    kcat("-b", floe.bootstrap, "-t", "grouped", "-P", data=b"x\n")
    run = subprocess.run(["kcat", "-b", floe.bootstrap, "-G", "g", "grouped"], capture_output=True, timeout=60)
    said = run.stderr.decode().strip().splitlines()[-1]
    compat_note(f"refused: {said}")
    assert run.returncode != 0 and "not supported" in said


def test_plain_text_is_a_row(floe):
    kcat("-b", floe.bootstrap, "-t", "hello", "-P", data=b"hello\n")
    floe.flush("hello")
    rows = floe.rows("streams.hello")
    assert rows.column("_value").to_pylist() == ["hello"]


@pytest.mark.compat("one event over HTTP, a row with its ids", client="curl")
def test_the_curl_line_of_the_readme(floe):
    run = subprocess.run(
        ["curl", "-sS", "-f", f"{floe.url}/api/v1/topics/orders/events", "-d", '{"id": 3, "name": "eve"}'],
        capture_output=True,
        timeout=30,
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["accepted"] == 1 and answer["ack"] == "durable"
    floe.flush("orders")
    rows = floe.rows("streams.orders")
    assert rows.select(["id", "name"]).to_pylist() == [{"id": 3, "name": "eve"}]
    system = rows.column("floe").to_pylist()[0]
    assert system["id"] and system["write_id"] and system["offset"] == 0


def test_new_fields_become_columns_while_the_stream_runs(floe):
    kcat("-b", floe.bootstrap, "-t", "grow", "-P", data=b'{"a":1}\n')
    floe.flush("grow")
    kcat("-b", floe.bootstrap, "-t", "grow", "-P", data=b'{"a":2,"b":"x"}\n{"a":"text"}\n{"c":{"d":[1,2]}}\n')
    floe.flush("grow")
    rows = floe.rows("streams.grow")
    assert rows.num_rows == 4
    assert sorted(v for v in rows.column("a").to_pylist() if v is not None) == [1, 2]
    assert [v for v in rows.column("b").to_pylist() if v] == ["x"]
    assert [v for v in rows.column("a__string").to_pylist() if v] == ["text"]
    assert [v for v in rows.column("c").to_pylist() if v] == [{"d": [1, 2]}]


def test_poison_never_stops_a_partition(floe_factory):
    floe = floe_factory("--table-mode", "json", "--num-partitions", "1")
    data = b'{"a":1}\nnot json\n{"a":2}\n[1,2]\n{"a":3}\n'
    kcat("-b", floe.bootstrap, "-t", "poison", "-P", data=data)
    floe.flush("poison")
    assert sorted(floe.rows("streams.poison").column("a").to_pylist()) == [1, 2, 3]
    dead = floe.rows("streams.poison__dlq")
    assert sorted(dead.column("value").to_pylist()) == [b"[1,2]", b"not json"]
    pairs = offsets_of(floe.rows("streams.poison")) + offsets_of(dead)
    assert sorted(pairs) == [(0, offset) for offset in range(5)]
    assert_each_once(pairs)
