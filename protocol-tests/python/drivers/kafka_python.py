"""kafka-python 2.0 and 3."""

import inspect
import sys
import time

import wire
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic

IS_OLD = "enable_idempotence" not in KafkaProducer.DEFAULT_CONFIG


class Client:
    def __init__(self, bootstrap):
        self.base = {"bootstrap_servers": bootstrap, **wire.sasl()}
        if IS_OLD:
            # Version 2 gives a broker two seconds to tell what it is.
            self.base["api_version_auto_timeout_ms"] = 15_000

    def produce(self, topic, codec, idempotent, records):
        options = {"compression_type": None if codec == "none" else codec, "acks": "all", "linger_ms": 50}
        # Version 2 tries a wrong password again for as long as this.
        options["max_block_ms"] = 15_000
        if not IS_OLD:
            options["enable_idempotence"] = idempotent
        producer = KafkaProducer(**self.base, **options)
        futures = [
            producer.send(
                topic,
                value=wire.unpack(sent["value"]),
                key=wire.unpack(sent["key"]),
                headers=wire.headers_of(sent),
                partition=sent["partition"],
                timestamp_ms=sent["timestamp"],
            )
            for sent in records
        ]
        for future in futures:
            future.get(30)
        producer.close()
        return len(records)

    def fetch(self, topic, partitions):
        consumer = KafkaConsumer(**self.base, group_id=None, enable_auto_commit=False)
        assigned = [TopicPartition(topic, partition) for partition in range(partitions)]
        consumer.assign(assigned)
        begins, ends = consumer.beginning_offsets(assigned), consumer.end_offsets(assigned)
        for one in assigned:
            consumer.seek(one, begins[one])
        wanted = sum(ends[one] - begins[one] for one in assigned)
        found, deadline = [], time.monotonic() + 30
        while len(found) < wanted and time.monotonic() < deadline:
            for batch in consumer.poll(timeout_ms=1000).values():
                for got in batch:
                    found.append(wire.record(got.partition, got.key, got.value, got.headers, got.timestamp))
        consumer.close()
        return found

    def admin(self, topic):
        return Admin(self.base).round_trip(topic)

    def subscribe(self, topic):
        consumer = KafkaConsumer(topic, **self.base, group_id="g")
        deadline = time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                if consumer.poll(timeout_ms=500):
                    return "a record, although there are no groups"
            return None
        except (errors.KafkaError, AssertionError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            try:
                consumer.close(**closing(consumer))
            except Exception:
                pass  # The first error is the one that counts.

    def transactions(self):
        if IS_OLD:
            return "not in this client"
        try:
            producer = KafkaProducer(
                **self.base, transactional_id="t", max_block_ms=60_000
            )
            producer.init_transactions()
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def closing(consumer):
    names = inspect.signature(consumer.close).parameters
    return {"autocommit": False, **({"timeout_ms": 1000} if "timeout_ms" in names else {})}


class Admin:
    """The admin round trip; names of a few calls changed with version 3."""

    def __init__(self, base):
        self.client = KafkaAdminClient(**base)

    def round_trip(self, topic):
        client = self.client
        wish = NewTopic(topic, num_partitions=3, replication_factor=1, topic_configs={"retention.ms": "3600000"})
        client.create_topics([wish])
        partitions = self.partitions(topic)
        before = self.retention(topic)
        client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": "7200000"})])
        after = self.retention(topic)
        client.create_partitions({topic: NewPartitions(5)})
        grown = self.partitions(topic)
        client.delete_topics([topic])
        deleted = topic not in client.list_topics()
        client.close()
        return {"partitions": partitions, "retention": [before, after], "grown": grown, "deleted": deleted}

    def partitions(self, topic):
        return len(self.client.describe_topics([topic])[0]["partitions"])

    def retention(self, topic):
        answer = self.client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        if isinstance(answer, dict):
            return find_retention(answer)
        return [entry[1] for one in answer for entry in one.resources[0][4] if entry[0] == "retention.ms"][0]


def find_retention(answer):
    """The value of retention.ms, however deep the dictionary holds it."""
    for key, value in answer.items():
        if key == "retention.ms":
            return value["value"] if isinstance(value, dict) else value
        if isinstance(value, dict):
            found = find_retention(value)
            if found is not None:
                return found
    return None


if __name__ == "__main__":
    wire.serve(Client(sys.argv[1]))
