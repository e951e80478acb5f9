"""librdkafka through confluent-kafka: admin, every value once in log and table, kill -9."""

import json
import random
import threading
import time
from http.client import HTTPException

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

from conftest import assert_each_once, eventually, offsets_of


def admin(floe):
    return AdminClient({"bootstrap.servers": floe.bootstrap})


def create(floe, topic, partitions):
    client = admin(floe)
    client.create_topics([NewTopic(topic, num_partitions=partitions)])[topic].result(30)


def read_all(floe, topic, partitions):
    """Every (partition, offset, value) by assignment, from the beginning to the end."""
    consumer = Consumer({"bootstrap.servers": floe.bootstrap, "group.id": "unused", "enable.auto.commit": False})
    ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30) for p in range(partitions)}
    consumer.assign([TopicPartition(topic, p, low) for p, (low, high) in ends.items() if high > low])
    wanted = sum(high - low for low, high in ends.values())
    found, deadline = [], time.monotonic() + 300
    while len(found) < wanted and time.monotonic() < deadline:
        for message in consumer.consume(1000, timeout=1):
            assert message.error() is None, message.error()
            found.append((message.partition(), message.offset(), message.value()))
    consumer.close()
    assert len(found) == wanted
    return found


def test_admin_round_trip(floe):
    client = admin(floe)
    topic = NewTopic("made", num_partitions=3, replication_factor=3, config={"retention.ms": "3600000"})
    client.create_topics([topic])["made"].result(30)
    assert len(client.list_topics("made", timeout=30).topics["made"].partitions) == 3
    client.create_partitions([NewPartitions("made", 5)])["made"].result(30)
    resource = ConfigResource(ConfigResource.Type.TOPIC, "made")
    config = list(client.describe_configs([resource]).values())[0].result(30)
    assert config["retention.ms"].value == "3600000" and not config["retention.ms"].is_default
    assert config["cleanup.policy"].value == "delete"
    assert config["table.mode"].value == "auto"
    try:
        client.create_topics([NewTopic("bad", config={"table.mode": "wrong"})])["bad"].result(30)
        raise AssertionError("a wrong value must be refused")
    except KafkaException as error:
        assert "table.mode" in str(error) and "wrong" in str(error)
    client.delete_topics(["made"])["made"].result(30)
    eventually(lambda: "made" not in client.list_topics(timeout=30).topics)


def test_every_codec_and_ack_lands_once(floe):
    expected = {}
    create(floe, "codecs", 2)
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        for acks in ("0", "1", "all"):
            failed = []
            producer = Producer(
                {"bootstrap.servers": floe.bootstrap, "compression.type": codec, "acks": acks, "linger.ms": 20}
            )
            for i in range(200):
                key = f"{codec}-{acks}-{i}"
                expected[key] = i
                producer.produce(
                    "codecs",
                    json.dumps({"key": key, "i": i, "text": "lorem ipsum " * 20}),
                    key=key,
                    on_delivery=lambda error, message: error and failed.append(error),
                )
            assert producer.flush(30) == 0 and not failed, failed
    # Nobody waited for what was sent without an acknowledgement.
    eventually(lambda: len(read_all(floe, "codecs", 2)) == len(expected))
    floe.flush("codecs")
    rows = floe.rows("streams.codecs")
    assert dict(zip(rows.column("key").to_pylist(), rows.column("i").to_pylist())) == expected
    assert rows.num_rows == len(expected)
    assert_each_once(offsets_of(rows))


def test_headers_keys_nulls_and_timestamps_arrive_unchanged(floe):
    producer = Producer({"bootstrap.servers": floe.bootstrap, "enable.idempotence": True})
    headers = [("a", b"1"), ("a", b"2"), ("empty", b""), ("null", None)]
    producer.produce("shapes", b'{"n":1}', key=b"\x00\xff", headers=headers, timestamp=1_700_000_000_123, partition=0)
    producer.produce("shapes", None, key=b"tombstone", partition=0)
    producer.produce("shapes", b"\xff\xfe", partition=0)
    assert producer.flush(30) == 0
    floe.flush("shapes")
    rows = floe.rows("streams.shapes")
    by_offset = {row["floe"]["offset"]: row for row in rows.to_pylist()}
    first = by_offset[0]
    assert first["n"] == 1
    assert first["floe"]["key"] == b"\x00\xff"
    assert [(h["key"], h["value"]) for h in first["floe"]["headers"]] == headers
    assert int(first["floe"]["timestamp"].timestamp() * 1000 + 0.5) == 1_700_000_000_123
    assert by_offset[1]["n"] is None and by_offset[1]["floe"]["key"] == b"tombstone"
    assert by_offset[2]["_value__binary"] == b"\xff\xfe"
    assert floe.duckdb().execute("select count(*) from f.streams.shapes").fetchone() == (3,)


def test_three_kills_under_load_lose_and_double_nothing(floe_factory):
    floe = floe_factory("--table-target-lag", "1s")
    create(floe, "load", 4)
    acknowledged, lock, stop = set(), threading.Lock(), threading.Event()
    total, http_total = 200_000, 10_000

    def kafka():
        producer = Producer(
            {
                "bootstrap.servers": floe.bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 300_000,
                "reconnect.backoff.max.ms": 500,
            }
        )

        def delivered(error, message):
            assert error is None, error
            with lock:
                acknowledged.add(("k", int(message.key())))

        for i in range(total):
            value = json.dumps({"source": "k", "i": i})
            while True:
                try:
                    producer.produce("load", value, key=str(i), on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
            if i % 200 == 0:
                time.sleep(0.01)
        assert producer.flush(300) == 0

    unknown = set()

    def http():
        for i in range(0, http_total, 10):
            body = "\n".join(json.dumps({"source": "h", "i": n}) for n in range(i, i + 10))
            try:
                answer = floe.post(
                    "/api/v1/topics/load/events", body.encode(), {"content-type": "application/x-ndjson"}
                )
                assert answer["accepted"] == 10
                with lock:
                    acknowledged.update(("h", n) for n in range(i, i + 10))
            except (OSError, HTTPException):
                # No answer: it may or may not have been stored, once.
                unknown.update(("h", n) for n in range(i, i + 10))
                time.sleep(0.2)

    threads = [threading.Thread(target=work) for work in (kafka, http)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(random.uniform(0.5, 2.5))
        floe.kill()
        floe.start()
    for thread in threads:
        thread.join()
    stop.set()

    floe.flush("load")
    stored = read_all(floe, "load", 4)
    for partition in range(4):
        offsets = sorted(offset for p, offset, _ in stored if p == partition)
        assert offsets == list(range(len(offsets))), "offsets are contiguous"
    in_log = [(v["source"], v["i"]) for v in (json.loads(value) for _, _, value in stored)]
    rows = floe.rows("streams.load")
    in_table = list(zip(rows.column("source").to_pylist(), rows.column("i").to_pylist()))
    assert sorted(in_log) == sorted(in_table), "log and table hold the same rows"
    assert_each_once(offsets_of(rows))
    assert len(in_table) == len(set(in_table)), "an event is there twice"
    assert acknowledged <= set(in_table), "an acknowledged event is missing"
    assert set(in_table) <= acknowledged | unknown


def test_far_timestamps_are_rows_as_they_are(floe):
    producer = Producer({"bootstrap.servers": floe.bootstrap})
    create(floe, "old", 1)
    for stamp in (1, 253_402_300_799_999):
        producer.produce("old", b"{}", timestamp=stamp)
    assert producer.flush(30) == 0
    floe.flush("old")
    stamps = floe.rows("streams.old").column("floe").combine_chunks().field("timestamp").cast("int64")
    assert sorted(stamps.to_pylist()) == [1_000, 253_402_300_799_999_000]
