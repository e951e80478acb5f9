"""aiokafka."""

import asyncio
import sys

import wire
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType


class Client:
    def __init__(self, bootstrap):
        self.base = {"bootstrap_servers": bootstrap, **wire.sasl()}

    def produce(self, **arguments):
        return asyncio.run(self.produce_later(**arguments))

    def fetch(self, **arguments):
        return asyncio.run(self.fetch_later(**arguments))

    def admin(self, **arguments):
        return asyncio.run(self.admin_later(**arguments))

    def subscribe(self, **arguments):
        return asyncio.run(within(self.subscribe_later(**arguments)))

    def transactions(self):
        return asyncio.run(within(self.transactions_later()))

    async def produce_later(self, topic, codec, idempotent, records):
        async with AIOKafkaProducer(
            **self.base,
            compression_type=None if codec == "none" else codec,
            enable_idempotence=idempotent,
            acks="all",
            linger_ms=50,
        ) as producer:
            sent = [
                await producer.send(
                    topic,
                    value=wire.unpack(one["value"]),
                    key=wire.unpack(one["key"]),
                    headers=wire.headers_of(one),
                    partition=one["partition"],
                    timestamp_ms=one["timestamp"],
                )
                for one in records
            ]
            await asyncio.wait_for(asyncio.gather(*sent), 30)
        return len(records)

    async def fetch_later(self, topic, partitions):
        found = []
        async with AIOKafkaConsumer(**self.base, group_id=None) as consumer:
            assigned = [TopicPartition(topic, partition) for partition in range(partitions)]
            consumer.assign(assigned)
            await consumer.seek_to_beginning(*assigned)
            ends = await consumer.end_offsets(assigned)
            wanted = sum(ends.values())
            while len(found) < wanted:
                batches = await asyncio.wait_for(consumer.getmany(timeout_ms=1000), 30)
                for batch in batches.values():
                    for got in batch:
                        found.append(wire.record(got.partition, got.key, got.value, got.headers, got.timestamp))
        return found

    async def admin_later(self, topic):
        client = AIOKafkaAdminClient(**self.base)
        await client.start()
        made = NewTopic(topic, num_partitions=3, replication_factor=1, topic_configs={"retention.ms": "3600000"})
        await client.create_topics([made])
        partitions = len((await client.describe_topics([topic]))[0]["partitions"])
        before = await retention(client, topic)
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": "7200000"})])
        after = await retention(client, topic)
        await client.create_partitions({topic: NewPartitions(5)})
        grown = len((await client.describe_topics([topic]))[0]["partitions"])
        await client.delete_topics([topic])
        deleted = topic not in await client.list_topics()
        await client.close()
        return {"partitions": partitions, "retention": [before, after], "grown": grown, "deleted": deleted}

    async def subscribe_later(self, topic):
        consumer = AIOKafkaConsumer(topic, **self.base, group_id="g")
        try:
            await consumer.start()
            await consumer.getmany(timeout_ms=60_000)
        finally:
            await consumer.stop()

    async def transactions_later(self):
        producer = AIOKafkaProducer(**self.base, transactional_id="t")
        try:
            await producer.start()
        finally:
            await producer.stop()


async def within(work):
    """The error that `work` ends with; None if it neither ends nor fails in a minute."""
    try:
        await asyncio.wait_for(work, 60)
    except asyncio.TimeoutError:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def retention(client, topic):
    for answer in await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)]):
        for entry in answer.resources[0][4]:
            if entry[0] == "retention.ms":
                return entry[1]


if __name__ == "__main__":
    wire.serve(Client(sys.argv[1]))
