"""Stock Kafka clients in many languages and versions: what they send, read back, administrate, and are refused."""

import time

import pytest

import batches
from clients import ANSWER_MAX_S, CLIENTS, encoded, sample
from conftest import assert_each_once, offsets_of

EVERY = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.id)
CLEAR_WITHIN_S = 60
CLEAR_WORDS = ("support", "version", "feature", "too old")


@pytest.fixture
def driver(client, floe):
    program = client.start(floe.bootstrap)
    yield program
    program.close()


def make(floe, topic, partitions, **options):
    # The samples are of long ago: once they are in the table retention would take them from the log.
    body = {"name": topic, "partitions": partitions, "options": {"retention.ms": -1, **options}}
    return floe.post_json("/api/v1/topics", body)


def by_partition(records):
    lists = {}
    for record in records:
        lists.setdefault(record["partition"], []).append(record)
    return lists


def as_sent(rows):
    """Rows of a raw table as the records that they were, in order of partition and offset."""
    found = sorted(rows.to_pylist(), key=lambda row: (row["floe"]["partition"], row["floe"]["offset"]))
    return [
        {
            "partition": row["floe"]["partition"],
            "key": encoded(row["key"]),
            "value": encoded(row["value"]),
            "headers": [[one["key"], encoded(one["value"])] for one in row["floe"]["headers"] or []],
            "timestamp": round(row["floe"]["timestamp"].timestamp() * 1000),
        }
        for row in found
    ]


def as_read(client, sent):
    """What `client` can tell of what was sent."""
    if not client.reads_empty_as_null:
        return sent
    return [
        {
            **one,
            "key": one["key"] or None,
            "value": one["value"] or None,
            "headers": [[name, value or None] for name, value in one["headers"]],
        }
        for one in sent
    ]


@pytest.mark.compat("every codec, byte by byte")
@EVERY
def test_every_codec_byte_by_byte(client, driver, floe, compat_note):
    make(floe, "bytes", 3, **{"table.mode": "raw"})
    sent, asked = [], []
    for idempotent in [False, True] if client.idempotent else [False]:
        for codec in client.codecs:
            records = sample(codec, idempotent, client.lacks)
            assert driver.ask("produce", topic="bytes", codec=codec, idempotent=idempotent, records=records) == len(records)
            sent += records
            asked.append((codec, idempotent))
    for partition in range(3):
        stored = [(codec, producer >= 0) for codec, producer in batches.fetch(floe.bootstrap, "bytes", partition)]
        assert list(dict.fromkeys(stored)) == asked, "codec or idempotence of the batches is not what was asked for"
    back = driver.ask("fetch", topic="bytes", partitions=3)
    assert by_partition(back) == by_partition(as_read(client, sent))
    status = floe.flush("bytes")
    assert (status["rows"], status["dlq_rows"], status["pending_offsets"]) == (len(sent), 0, 0)
    rows = floe.rows("streams.bytes")
    assert_each_once(offsets_of(rows))
    assert by_partition(as_sent(rows)) == by_partition(sent)
    compat_note("works: " + ", ".join(client.codecs) + ("; idempotent too" if client.idempotent else ""))


@pytest.mark.compat("topic made by its first message, JSON as typed columns")
@EVERY
def test_json_to_a_new_topic_is_typed_rows(client, driver, floe):
    values = [b'{"id":%d,"name":"n%d","price":1.5,"ok":true}' % (i, i) for i in range(50)]
    records = [
        {"partition": i % 4, "key": encoded(b"k%d" % i), "value": encoded(value), "headers": [], "timestamp": 1_700_000_000_000}
        for i, value in enumerate(values)
    ]
    driver.ask("produce", topic="fresh", codec="none", idempotent=client.idempotent, records=records)
    assert floe.flush("fresh")["rows"] == 50
    rows = floe.rows("streams.fresh")
    assert sorted(rows.column("id").to_pylist()) == list(range(50))
    assert set(rows.column("price").to_pylist()) == {1.5} and set(rows.column("ok").to_pylist()) == {True}


@pytest.mark.compat("SASL/PLAIN: a token writes and reads what it may; a wrong one is told")
@EVERY
def test_a_token_opens_what_it_may_and_a_wrong_one_is_told(client, floe, compat_note):
    floe.make_token("admin")
    make(floe, "mine", 3)
    records = [one for one in sample("none", False, client.lacks) if one["partition"] == 0]
    send = {"topic": "mine", "codec": "none", "idempotent": client.idempotent, "records": records}
    token = floe.make_token("client", "write:topic:mine", "read:topic:mine")
    program = client.start(floe.bootstrap, token)
    try:
        assert program.ask("produce", **send) == len(records)
        assert len(program.ask("fetch", topic="mine", partitions=3)) == len(records)
        refused = program.answer("produce", **{**send, "topic": "other"})
        assert "ok" not in refused, "a topic that it may not write to"
    finally:
        program.close()
    program = client.start(floe.bootstrap, "floe_wrong")
    try:
        began = time.monotonic()
        answer = program.answer("produce", **send)
        assert "ok" not in answer
        compat_note(f"works; a wrong one: {answer['failed'].splitlines()[0][:120]}")
        assert time.monotonic() - began < ANSWER_MAX_S
    finally:
        program.close()
    assert floe.flush("mine")["rows"] == len(records)


@pytest.mark.compat("admin: create, describe, alter, add partitions, delete")
@pytest.mark.parametrize("client", [c for c in CLIENTS if c.has_admin], ids=lambda client: client.id)
def test_admin_round_trip(client, driver):
    seen = driver.ask("admin", topic="managed")
    assert seen == {"partitions": 3, "retention": ["3600000", "7200000"], "grown": 5, "deleted": True}


@pytest.mark.compat("admin at start: topic made with broker defaults if absent, then produce")
@pytest.mark.parametrize("client", [c for c in CLIENTS if c.folder == "java"], ids=lambda client: client.id)
def test_topics_made_at_start_as_frameworks_do(client, driver, floe):
    assert driver.ask("ensure", topic="orders") is True
    assert driver.ask("ensure", topic="orders") is False
    assert len(floe.get("/api/v1/topics/orders")["partitions"]) == 4
    records = sample("zstd", True, client.lacks)
    driver.ask("produce", topic="orders", codec="zstd", idempotent=True, records=records)
    assert floe.flush("orders")["rows"] == len(records)


def assert_clear(client, error, began):
    assert error, f"no error within {CLEAR_WITHIN_S} s"
    assert time.monotonic() - began < CLEAR_WITHIN_S + 5
    # An unknown API closes the connection, as Apache Kafka does: more cannot be said to a client that does not ask.
    words = CLEAR_WORDS if client.asks_for_versions else (*CLEAR_WORDS, "eof")
    assert any(word in error.lower() for word in words), f"not clear: {error}"


def shortened(error):
    line = error.splitlines()[0]
    return f"refused: {line if len(line) <= 160 else line[:157] + '...'}"


@pytest.mark.compat("consumer group")
@pytest.mark.parametrize("client", [c for c in CLIENTS if c.has_groups], ids=lambda client: client.id)
def test_groups_are_refused_clearly(client, driver, floe, compat_note):
    make(floe, "grouped", 1)
    began = time.monotonic()
    error = driver.ask("subscribe", topic="grouped")
    compat_note(shortened(error or "no error"))
    assert_clear(client, error, began)


@pytest.mark.compat("consumer group, group.protocol=consumer")
@pytest.mark.parametrize("client", [c for c in CLIENTS if c.has_group_protocol], ids=lambda client: client.id)
def test_groups_of_the_new_protocol_are_refused_clearly(client, driver, floe, compat_note):
    make(floe, "grouped", 1)
    began = time.monotonic()
    error = driver.ask("subscribe", topic="grouped", protocol="consumer")
    compat_note(shortened(error or "no error"))
    assert_clear(client, error, began)


@pytest.mark.compat("transactions")
@pytest.mark.parametrize("client", [c for c in CLIENTS if c.has_transactions], ids=lambda client: client.id)
def test_transactions_are_refused_clearly(client, driver, compat_note):
    began = time.monotonic()
    error = driver.ask("transactions")
    compat_note(shortened(error or "no error"))
    assert_clear(client, error, began)
