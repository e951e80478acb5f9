"""Whose time a record carries, and which times a topic takes, in log and table."""

import json
import time
import urllib.error
from datetime import datetime, timezone

from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

HOUR_MS = 3_600_000


def create(floe, topic, config):
    client = AdminClient({"bootstrap.servers": floe.bootstrap})
    client.create_topics([NewTopic(topic, num_partitions=1, config=config)])[topic].result(30)


def send(floe, topic, timestamp_ms, value=b'{"a": 1}'):
    """The error of the delivery, or none."""
    errors = []
    producer = Producer({"bootstrap.servers": floe.bootstrap, "compression.type": "lz4"})
    producer.produce(
        topic, value, partition=0, timestamp=timestamp_ms, on_delivery=lambda error, _: errors.append(error)
    )
    assert producer.flush(30) == 0
    return errors[0]


def now_ms():
    return int(time.time() * 1000)


def consumed(floe, topic, count):
    """(type, milliseconds) of each record; the consumer checks every CRC."""
    consumer = Consumer(
        {"bootstrap.servers": floe.bootstrap, "group.id": "unused", "enable.auto.commit": False, "check.crcs": True}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    found, deadline = [], time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        for message in consumer.consume(count, timeout=1):
            assert message.error() is None, message.error()
            found.append(message.timestamp())
    sought = [consumer.offsets_for_times([TopicPartition(topic, 0, ms)], 30)[0].offset for _, ms in found]
    consumer.close()
    return found, sought


def table_times(floe, topic):
    floe.flush(topic)
    rows = sorted(floe.rows(f"streams.{topic}").column("floe").to_pylist(), key=lambda row: row["offset"])
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    return [(row["timestamp_type"], round((row["timestamp"] - epoch).total_seconds() * 1000)) for row in rows]


def test_the_brokers_time_is_the_same_in_log_and_table(floe):
    create(floe, "stamped", {"message.timestamp.type": "LogAppendTime"})
    # Its records are of long ago: once they are in the table retention would take them from the log.
    create(floe, "sent", {"retention.ms": "-1"})
    before = now_ms()
    for topic in ("stamped", "sent"):
        assert send(floe, topic, 1_000) is None
        time.sleep(0.01)
        floe.post(f"/api/v1/topics/{topic}/events?partition=0&timestamp=$.t", b'{"t": 2000}')
    after = now_ms()

    found, sought = consumed(floe, "stamped", 2)
    assert [kind for kind, _ in found] == [TIMESTAMP_LOG_APPEND_TIME] * 2
    assert all(before <= ms <= after for _, ms in found), (before, found, after)
    assert sought == [0, 1]
    assert table_times(floe, "stamped") == [(1, ms) for _, ms in found]

    found, sought = consumed(floe, "sent", 2)
    assert found == [(TIMESTAMP_CREATE_TIME, 1_000), (TIMESTAMP_CREATE_TIME, 2_000)]
    assert sought == [0, 1]
    assert table_times(floe, "sent") == [(0, 1_000), (0, 2_000)]


def test_times_outside_of_what_a_topic_takes_are_refused(floe):
    bounds = {"message.timestamp.before.max.ms": HOUR_MS, "message.timestamp.after.max.ms": HOUR_MS}
    config = {key: str(value) for key, value in bounds.items()}
    create(floe, "bounded", config)
    create(floe, "stamped", {**config, "message.timestamp.type": "LogAppendTime"})
    for off in (-2 * HOUR_MS, 2 * HOUR_MS):
        assert send(floe, "bounded", now_ms() + off).code() == KafkaError.INVALID_TIMESTAMP
        assert send(floe, "stamped", now_ms() + off) is None
        body = json.dumps({"t": now_ms() + off}).encode()
        try:
            floe.post("/api/v1/topics/bounded/events?timestamp=$.t", body)
            raise AssertionError("the event must be refused")
        except urllib.error.HTTPError as error:
            problem = json.load(error)
            assert (error.code, problem["errors"][0]["code"]) == (422, "bad_timestamp"), problem
        floe.post("/api/v1/topics/stamped/events?timestamp=$.t", body)
    for off in (-HOUR_MS // 2, HOUR_MS // 2):
        assert send(floe, "bounded", now_ms() + off) is None
