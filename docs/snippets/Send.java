// Sends JSON lines from standard input to a topic: in batches, compressed, each batch once.
//   FLOE_TOKEN=… java Send.java orders < events.ndjson

import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.UUID;
import java.util.zip.GZIPOutputStream;

public class Send {
    static final HttpClient CLIENT = HttpClient.newHttpClient();

    static void send(URI url, List<String> lines) throws IOException, InterruptedException {
        var body = new ByteArrayOutputStream();
        try (var packed = new GZIPOutputStream(body)) {
            packed.write(String.join("\n", lines).getBytes(StandardCharsets.UTF_8));
        }
        var request = HttpRequest.newBuilder(url)
                .timeout(Duration.ofSeconds(30))
                .header("Content-Type", "application/x-ndjson")
                .header("Content-Encoding", "gzip")
                // One key for all attempts: whatever happens in between, the batch is stored once.
                .header("Idempotency-Key", UUID.randomUUID().toString())
                .POST(BodyPublishers.ofByteArray(body.toByteArray()));
        var token = System.getenv("FLOE_TOKEN");
        if (token != null) {
            request.header("Authorization", "Bearer " + token);
        }
        for (long pause = 1; ; pause = Math.min(2 * pause, 30)) {
            long wait = pause;
            try {
                var answer = CLIENT.send(request.build(), BodyHandlers.ofString());
                int status = answer.statusCode();
                if (status < 300) {
                    return;
                }
                if (status < 500 && !Set.of(408, 409, 429).contains(status)) {
                    throw new IllegalStateException("refused: " + status + " " + answer.body());
                }
                wait = answer.headers().firstValueAsLong("Retry-After").orElse(pause);
            } catch (IOException error) {
                System.err.println("no answer: " + error);
            }
            Thread.sleep(1000 * wait);
        }
    }

    public static void main(String[] arguments) throws Exception {
        var base = System.getenv().getOrDefault("FLOE_URL", "http://127.0.0.1:8080");
        var url = URI.create(base + "/api/v1/topics/" + arguments[0] + "/events");
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        var batch = new ArrayList<String>();
        for (var line = input.readLine(); line != null; line = input.readLine()) {
            batch.add(line);
            if (batch.size() == 500) {
                send(url, batch);
                batch.clear();
            }
        }
        if (!batch.isEmpty()) {
            send(url, batch);
        }
    }
}
