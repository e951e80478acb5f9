// kafkajs, driven line by line as python/drivers/wire.py tells. It has gzip; the other codecs are plugged in.
'use strict';

const readline = require('node:readline');
const lz4 = require('lz4js');
const zstd = require('@bokuweb/zstd-wasm');
const snappy = require('kafkajs-snappy');
const { Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes, logLevel } = require('kafkajs');

CompressionCodecs[CompressionTypes.Snappy] = snappy;
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
});
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(zstd.decompress(buffer)),
});

const CODECS = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
};

const kafka = new Kafka({
  clientId: 'protocol-tests',
  brokers: [process.argv[2]],
  logLevel: logLevel.NOTHING,
  // Its own limits are 1 and 10 s.
  connectionTimeout: 30_000,
  authenticationTimeout: 30_000,
  retry: { retries: 3, initialRetryTime: 100 },
  ...(process.env.KAFKA_TOKEN && {
    sasl: { mechanism: 'plain', username: 'user', password: process.env.KAFKA_TOKEN },
  }),
});

const unpack = (data) => (data === null ? null : Buffer.from(data, 'base64'));
const pack = (data) => (data === null || data === undefined ? null : Buffer.from(data).toString('base64'));

// kafkajs keeps headers in an object: several values of one name are an array.
function headersOf(record) {
  const headers = {};
  for (const [name, value] of record.headers) {
    (headers[name] ??= []).push(unpack(value));
  }
  return headers;
}

function pairsOf(headers) {
  return Object.entries(headers ?? {}).flatMap(([name, value]) => [value].flat().map((one) => [name, pack(one)]));
}

async function produce({ topic, codec, idempotent, records }) {
  const producer = kafka.producer({ idempotent });
  await producer.connect();
  await producer.send({
    topic,
    acks: -1,
    compression: CODECS[codec],
    messages: records.map((one) => ({
      partition: one.partition,
      key: unpack(one.key),
      value: unpack(one.value),
      headers: headersOf(one),
      timestamp: String(one.timestamp),
    })),
  });
  await producer.disconnect();
  return records.length;
}

// The public consumer always joins a group. What lies below it fetches without: the same protocol code.
async function fetch({ topic, partitions }) {
  const offsets = kafka.admin();
  await offsets.connect();
  const ends = await offsets.fetchTopicOffsets(topic);
  await offsets.disconnect();
  const cluster = inside();
  await cluster.connect();
  await cluster.addTargetTopic(topic);
  const found = [];
  for (let partition = 0; partition < partitions; partition += 1) {
    const end = Number(ends.find((one) => one.partition === partition).high);
    const leader = Object.keys(cluster.findLeaderForPartitions(topic, [partition]))[0];
    const broker = await cluster.findBroker({ nodeId: leader });
    for (let next = 0; next < end; ) {
      const asked = [{ topic, partitions: [{ partition, fetchOffset: next, maxBytes: 10_000_000 }] }];
      const answer = await broker.fetch({ topics: asked, maxWaitTime: 500, minBytes: 1, maxBytes: 10_000_000, isolationLevel: 1 });
      for (const got of answer.responses[0].partitions[0].messages) {
        if (Number(got.offset) < next) continue;
        found.push({
          partition,
          key: pack(got.key),
          value: pack(got.value),
          headers: pairsOf(got.headers),
          timestamp: Number(got.timestamp),
        });
        next = Number(got.offset) + 1;
      }
    }
  }
  await cluster.disconnect();
  return found;
}

function inside() {
  const create = Object.getOwnPropertySymbols(kafka).find((one) => one.description === 'private:Kafka:createCluster');
  return kafka[create]({ metadataMaxAge: 300_000, allowAutoTopicCreation: false, isolationLevel: 1 });
}

async function admin({ topic }) {
  const admin = kafka.admin();
  await admin.connect();
  const configEntries = [{ name: 'retention.ms', value: '3600000' }];
  await admin.createTopics({ topics: [{ topic, numPartitions: 3, configEntries }] });
  const partitions = await count(admin, topic);
  const before = await retention(admin, topic);
  await admin.alterConfigs({
    validateOnly: false,
    resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries: [{ name: 'retention.ms', value: '7200000' }] }],
  });
  const after = await retention(admin, topic);
  await admin.createPartitions({ topicPartitions: [{ topic, count: 5 }] });
  const grown = await count(admin, topic);
  await admin.deleteTopics({ topics: [topic] });
  const deleted = !(await admin.listTopics()).includes(topic);
  await admin.disconnect();
  return { partitions, retention: [before, after], grown, deleted };
}

async function count(admin, topic) {
  return (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length;
}

async function retention(admin, topic) {
  const asked = [{ type: ConfigResourceTypes.TOPIC, name: topic }];
  const answer = await admin.describeConfigs({ resources: asked, includeSynonyms: false });
  return answer.resources[0].configEntries.find((one) => one.configName === 'retention.ms').configValue;
}

async function subscribe({ topic }) {
  const consumer = kafka.consumer({ groupId: 'g', retry: { retries: 2, initialRetryTime: 100 } });
  const crashed = new Promise((resolve) => consumer.on(consumer.events.CRASH, (event) => resolve(event.payload.error)));
  await consumer.connect();
  await consumer.subscribe({ topic });
  const started = consumer.run({ eachMessage: async () => {} }).then(() => crashed, (error) => error);
  const error = await within(Promise.race([started, crashed]));
  await consumer.disconnect();
  return error && `${error.name}: ${error.message}`;
}

async function transactions() {
  const producer = kafka.producer({ transactionalId: 't', idempotent: true, maxInFlightRequests: 1 });
  const error = await within(
    producer.connect().then(() => producer.transaction()).then(() => null, (failure) => failure),
  );
  await producer.disconnect();
  return error && `${error.name}: ${error.message}`;
}

function within(work) {
  return Promise.race([work, new Promise((resolve) => setTimeout(() => resolve(null), 60_000))]);
}

const OPERATIONS = { produce, fetch, admin, subscribe, transactions };

async function main() {
  await zstd.init();
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    const answer = await OPERATIONS[request.op](request).then(
      (ok) => ({ ok }),
      (error) => ({ failed: `${error.name}: ${error.message}` }),
    );
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  process.exit(0);
}

main();
