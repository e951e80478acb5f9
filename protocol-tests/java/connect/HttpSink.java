import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.connector.Task;
import org.apache.kafka.connect.errors.ConnectException;
import org.apache.kafka.connect.json.JsonConverter;
import org.apache.kafka.connect.sink.SinkConnector;
import org.apache.kafka.connect.sink.SinkRecord;
import org.apache.kafka.connect.sink.SinkTask;

/**
 * A sink of few lines that is configured and behaves as Aiven's HTTP sink with batches: Java's own client, everything below
 * 400 is delivered, everything else is tried again so and so often, then the task fails. It stands in where no connector is
 * at hand, so that the worker around it, its offsets and what it delivers again, is the real one.
 */
public class HttpSink extends SinkConnector {
    private Map<String, String> config;

    @Override
    public void start(Map<String, String> config) {
        this.config = config;
    }

    @Override
    public void stop() {}

    @Override
    public Class<? extends Task> taskClass() {
        return Sink.class;
    }

    @Override
    public List<Map<String, String>> taskConfigs(int tasksMax) {
        return List.of(config);
    }

    @Override
    public ConfigDef config() {
        return new ConfigDef();
    }

    @Override
    public String version() {
        return "1";
    }

    public static class Sink extends SinkTask {
        private final HttpClient client = HttpClient.newHttpClient();
        private final JsonConverter converter = new JsonConverter();
        private Map<String, String> config;

        @Override
        public void start(Map<String, String> config) {
            this.config = config;
            converter.configure(Map.of("schemas.enable", "false"), false);
        }

        @Override
        public void stop() {}

        @Override
        public String version() {
            return "1";
        }

        @Override
        public void put(Collection<SinkRecord> records) {
            int batchMax = Integer.parseInt(config.get("batch.max.size"));
            var values = new ArrayList<String>();
            for (var record : records) {
                var json = converter.fromConnectData(record.topic(), record.valueSchema(), record.value());
                values.add(new String(json, StandardCharsets.UTF_8));
                if (values.size() == batchMax) {
                    send(values);
                }
            }
            if (!values.isEmpty()) {
                send(values);
            }
        }

        private void send(List<String> values) {
            var body = config.get("batch.prefix") + String.join(config.get("batch.separator"), values) + config.get("batch.suffix");
            values.clear();
            var request = HttpRequest.newBuilder(URI.create(config.get("http.url")))
                    .timeout(Duration.ofSeconds(30))
                    .header("Content-Type", config.get("http.headers.content.type"))
                    .POST(BodyPublishers.ofString(body))
                    .build();
            int retries = Integer.parseInt(config.get("max.retries"));
            try {
                for (int attempt = 0; attempt <= retries; attempt++) {
                    try {
                        if (client.send(request, BodyHandlers.ofString()).statusCode() < 400) {
                            return;
                        }
                    } catch (IOException error) {
                        // Tried again as well.
                    }
                    Thread.sleep(Long.parseLong(config.get("retry.backoff.ms")));
                }
            } catch (InterruptedException error) {
                throw new ConnectException(error);
            }
            throw new ConnectException("Sending failed and no retries remain, stopping");
        }
    }
}
