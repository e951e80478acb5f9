// The Java client, driven line by line as python/drivers/wire.py tells. Compiled once against the oldest
// version and run with each, as applications are when they change the jar.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class Client {
    private static final ObjectMapper JSON = new ObjectMapper();
    private final String bootstrap;

    private Client(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    public static void main(String[] arguments) throws Exception {
        PrintStream answers = System.out;
        System.setOut(System.err);
        Client client = new Client(arguments[0]);
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in));
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            ObjectNode answer = JSON.createObjectNode();
            try {
                answer.set("ok", client.run(JSON.readTree(line)));
            } catch (Exception error) {
                error.printStackTrace();
                answer.put("failed", text(error));
            }
            answers.println(JSON.writeValueAsString(answer));
            answers.flush();
        }
    }

    private JsonNode run(JsonNode request) throws Exception {
        String topic = request.path("topic").asText();
        switch (request.get("op").asText()) {
            case "produce":
                return produce(topic, request);
            case "fetch":
                return fetch(topic, request.get("partitions").asInt());
            case "admin":
                return admin(topic);
            case "ensure":
                return JSON.valueToTree(ensure(topic));
            case "subscribe":
                return JSON.valueToTree(subscribe(topic, request.path("protocol").asText("classic")));
            case "transactions":
                return JSON.valueToTree(transactions());
            default:
                throw new IllegalArgumentException(request.toString());
        }
    }

    private Map<String, Object> base() {
        Map<String, Object> options = new HashMap<>();
        options.put("bootstrap.servers", bootstrap);
        String token = System.getenv("KAFKA_TOKEN");
        if (token != null) {
            options.put("security.protocol", "SASL_PLAINTEXT");
            options.put("sasl.mechanism", "PLAIN");
            options.put(
                "sasl.jaas.config",
                "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"user\" password=\""
                    + token + "\";");
        }
        return options;
    }

    private KafkaProducer<byte[], byte[]> producer(Map<String, Object> options) {
        return new KafkaProducer<>(options, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private KafkaConsumer<byte[], byte[]> consumer(Map<String, Object> options) {
        return new KafkaConsumer<>(options, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private JsonNode produce(String topic, JsonNode request) throws Exception {
        Map<String, Object> options = base();
        options.put("compression.type", request.get("codec").asText());
        options.put("enable.idempotence", request.get("idempotent").asBoolean());
        options.put("linger.ms", 50);
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer = producer(options)) {
            for (JsonNode one : request.get("records")) {
                ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(
                    topic, one.get("partition").asInt(), one.get("timestamp").asLong(),
                    unpack(one.get("key")), unpack(one.get("value")));
                for (JsonNode header : one.get("headers")) {
                    record.headers().add(header.get(0).asText(), unpack(header.get(1)));
                }
                sent.add(producer.send(record));
            }
            for (Future<RecordMetadata> one : sent) {
                one.get(30, TimeUnit.SECONDS);
            }
        }
        return JSON.valueToTree(sent.size());
    }

    private JsonNode fetch(String topic, int partitions) {
        ArrayNode found = JSON.createArrayNode();
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(base())) {
            List<TopicPartition> assigned = new ArrayList<>();
            for (int partition = 0; partition < partitions; partition++) {
                assigned.add(new TopicPartition(topic, partition));
            }
            consumer.assign(assigned);
            consumer.seekToBeginning(assigned);
            long wanted = 0;
            for (long end : consumer.endOffsets(assigned).values()) {
                wanted += end;
            }
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
            while (found.size() < wanted && System.nanoTime() < deadline) {
                for (ConsumerRecord<byte[], byte[]> got : consumer.poll(Duration.ofSeconds(1))) {
                    found.add(record(got));
                }
            }
        }
        return found;
    }

    private static ObjectNode record(ConsumerRecord<byte[], byte[]> got) {
        ObjectNode record = JSON.createObjectNode();
        record.put("partition", got.partition());
        record.put("key", pack(got.key()));
        record.put("value", pack(got.value()));
        ArrayNode headers = record.putArray("headers");
        for (Header header : got.headers()) {
            headers.addArray().add(header.key()).add(pack(header.value()));
        }
        record.put("timestamp", got.timestamp());
        return record;
    }

    private JsonNode admin(String topic) throws Exception {
        ObjectNode seen = JSON.createObjectNode();
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        try (Admin admin = Admin.create(base())) {
            NewTopic made = new NewTopic(topic, Optional.of(3), Optional.of((short) 1));
            made.configs(Collections.singletonMap("retention.ms", "3600000"));
            admin.createTopics(Collections.singleton(made)).all().get();
            seen.put("partitions", describe(admin, topic).partitions().size());
            ArrayNode retention = seen.putArray("retention");
            retention.add(retention(admin, resource));
            AlterConfigOp set = new AlterConfigOp(new ConfigEntry("retention.ms", "7200000"), AlterConfigOp.OpType.SET);
            admin.incrementalAlterConfigs(Collections.singletonMap(resource, Collections.singleton(set))).all().get();
            retention.add(retention(admin, resource));
            admin.createPartitions(Collections.singletonMap(topic, NewPartitions.increaseTo(5))).all().get();
            seen.put("grown", describe(admin, topic).partitions().size());
            admin.describeCluster().nodes().get();
            admin.deleteTopics(Collections.singleton(topic)).all().get();
            seen.put("deleted", !admin.listTopics().names().get().contains(topic));
        }
        return seen;
    }

    private static String retention(Admin admin, ConfigResource resource) throws Exception {
        return admin.describeConfigs(Collections.singleton(resource)).all().get().get(resource).get("retention.ms").value();
    }

    /** What version 2 calls values(), version 3 and later call topicNameValues(). */
    @SuppressWarnings("unchecked")
    private static TopicDescription describe(Admin admin, String topic) throws Exception {
        Object result = admin.describeTopics((Collection<String>) Collections.singleton(topic));
        Map<String, KafkaFuture<TopicDescription>> byName;
        try {
            byName = (Map<String, KafkaFuture<TopicDescription>>) result.getClass().getMethod("topicNameValues").invoke(result);
        } catch (NoSuchMethodException error) {
            byName = (Map<String, KafkaFuture<TopicDescription>>) result.getClass().getMethod("values").invoke(result);
        }
        return byName.get(topic).get();
    }

    private boolean ensure(String topic) throws Exception {
        try (Admin admin = Admin.create(base())) {
            try {
                describe(admin, topic);
                return false;
            } catch (ExecutionException error) {
                if (!(error.getCause() instanceof UnknownTopicOrPartitionException)) {
                    throw error;
                }
            }
            NewTopic wish = new NewTopic(topic, Optional.empty(), Optional.empty());
            admin.createTopics(Collections.singleton(wish)).all().get();
            describe(admin, topic);
            return true;
        }
    }

    private String subscribe(String topic, String protocol) {
        Map<String, Object> options = base();
        options.put("group.id", "g");
        options.put("auto.offset.reset", "earliest");
        if (!protocol.equals("classic")) {
            options.put("group.protocol", protocol);
        }
        KafkaConsumer<byte[], byte[]> consumer = consumer(options);
        try {
            consumer.subscribe(Collections.singleton(topic));
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
            while (System.nanoTime() < deadline) {
                if (!consumer.poll(Duration.ofMillis(500)).isEmpty()) {
                    return "a record, although there are no groups";
                }
            }
            return null;
        } catch (KafkaException error) {
            return text(error);
        } finally {
            consumer.close(Duration.ZERO);
        }
    }

    private String transactions() {
        Map<String, Object> options = base();
        options.put("transactional.id", "t");
        options.put("max.block.ms", 60_000);
        KafkaProducer<byte[], byte[]> producer = producer(options);
        try {
            producer.initTransactions();
            return null;
        } catch (KafkaException error) {
            return text(error);
        } finally {
            producer.close(Duration.ZERO);
        }
    }

    private static String text(Throwable error) {
        String name = error.getClass().getSimpleName();
        String cause = error.getCause() == null ? "" : " (" + text(error.getCause()) + ")";
        return name + ": " + error.getMessage() + cause;
    }

    private static byte[] unpack(JsonNode data) {
        return data.isNull() ? null : Base64.getDecoder().decode(data.asText());
    }

    private static String pack(byte[] data) {
        return data == null ? null : Base64.getEncoder().encodeToString(data);
    }
}
