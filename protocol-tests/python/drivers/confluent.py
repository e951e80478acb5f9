"""librdkafka through confluent-kafka, any version from 1.9 on."""

import sys
import time

import wire
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic


def sasl():
    if not wire.TOKEN:
        return {}
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "user",
        "sasl.password": wire.TOKEN,
    }


class Client:
    def __init__(self, bootstrap):
        self.base = {"bootstrap.servers": bootstrap, **sasl()}
        self.admin_client = AdminClient(self.base)

    def produce(self, topic, codec, idempotent, records):
        failed, refused = [], []
        options = {
            "compression.type": codec,
            "enable.idempotence": idempotent,
            "linger.ms": 50,
            "error_cb": lambda error: error.code() == KafkaError._AUTHENTICATION and refused.append(error),
        }
        producer = Producer({**self.base, **options})
        for sent in records:
            producer.produce(
                topic,
                value=wire.unpack(sent["value"]),
                key=wire.unpack(sent["key"]),
                headers=wire.headers_of(sent),
                partition=sent["partition"],
                timestamp=sent["timestamp"],
                on_delivery=lambda error, message: error and failed.append(str(error)),
            )
        deadline = time.monotonic() + 30
        while producer.flush(0.5) and time.monotonic() < deadline:
            if refused:
                producer.purge()
                raise KafkaException(refused[0])
        assert producer.flush(0) == 0 and not failed, failed
        return len(records)

    def fetch(self, topic, partitions):
        consumer = Consumer({**self.base, "group.id": "unused", "enable.auto.commit": False})
        wanted, assigned = 0, []
        for partition in range(partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
            wanted += high - low
            assigned.append(TopicPartition(topic, partition, low))
        consumer.assign(assigned)
        found, deadline = [], time.monotonic() + 30
        while len(found) < wanted and time.monotonic() < deadline:
            for got in consumer.consume(500, timeout=1):
                assert got.error() is None, got.error()
                time_ms = got.timestamp()[1]
                found.append(wire.record(got.partition(), got.key(), got.value(), got.headers(), time_ms))
        consumer.close()
        return found

    def admin(self, topic):
        client = self.admin_client
        made = NewTopic(topic, num_partitions=3, replication_factor=1, config={"retention.ms": "3600000"})
        client.create_topics([made])[topic].result(30)
        partitions = len(client.list_topics(topic, timeout=30).topics[topic].partitions)
        before = self.retention(topic)
        altered = ConfigResource(ConfigResource.Type.TOPIC, topic, set_config={"retention.ms": "7200000"})
        list(client.alter_configs([altered]).values())[0].result(30)
        after = self.retention(topic)
        client.create_partitions([NewPartitions(topic, 5)])[topic].result(30)
        grown = len(client.list_topics(topic, timeout=30).topics[topic].partitions)
        client.delete_topics([topic])[topic].result(30)
        return {
            "partitions": partitions,
            "retention": [before, after],
            "grown": grown,
            "deleted": topic not in client.list_topics(timeout=30).topics,
        }

    def retention(self, topic):
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        return list(self.admin_client.describe_configs([resource]).values())[0].result(30)["retention.ms"].value

    def subscribe(self, topic):
        consumer = Consumer({**self.base, "group.id": "g", "auto.offset.reset": "earliest"})
        consumer.subscribe([topic])
        deadline = time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                got = consumer.poll(0.5)
                if got is not None:
                    return str(got.error() or "a record, although there are no groups")
            return None
        except KafkaException as error:
            return str(error)
        finally:
            consumer.close()

    def transactions(self):
        producer = Producer({**self.base, "transactional.id": "t"})
        try:
            # It retries whatever error it gets until this time-out, and then shows it.
            producer.init_transactions(15)
        except KafkaException as error:
            return str(error)


if __name__ == "__main__":
    wire.serve(Client(sys.argv[1]))
