// Sends JSON lines from standard input to a topic: in batches, compressed, each batch once.
//   kotlinc Send.kt -include-runtime -d send.jar && FLOE_TOKEN=… java -jar send.jar orders < events.ndjson

import java.io.ByteArrayOutputStream
import java.io.IOException
import java.net.URI
import java.net.http.HttpClient
import java.net.http.HttpRequest
import java.net.http.HttpRequest.BodyPublishers
import java.net.http.HttpResponse.BodyHandlers
import java.time.Duration
import java.util.UUID
import java.util.zip.GZIPOutputStream

val client: HttpClient = HttpClient.newHttpClient()

fun send(url: URI, lines: List<String>) {
    val body = ByteArrayOutputStream()
    GZIPOutputStream(body).use { it.write(lines.joinToString("\n").toByteArray()) }
    val request = HttpRequest.newBuilder(url)
        .timeout(Duration.ofSeconds(30))
        .header("Content-Type", "application/x-ndjson")
        .header("Content-Encoding", "gzip")
        // One key for all attempts: whatever happens in between, the batch is stored once.
        .header("Idempotency-Key", UUID.randomUUID().toString())
        .POST(BodyPublishers.ofByteArray(body.toByteArray()))
    System.getenv("FLOE_TOKEN")?.let { request.header("Authorization", "Bearer $it") }
    var pause = 1L
    while (true) {
        var wait = pause
        try {
            val answer = client.send(request.build(), BodyHandlers.ofString())
            val status = answer.statusCode()
            if (status < 300) return
            check(status >= 500 || status in setOf(408, 409, 429)) { "refused: $status ${answer.body()}" }
            wait = answer.headers().firstValueAsLong("Retry-After").orElse(pause)
        } catch (error: IOException) {
            System.err.println("no answer: $error")
        }
        Thread.sleep(1000 * wait)
        pause = minOf(2 * pause, 30L)
    }
}

fun main(arguments: Array<String>) {
    val base = System.getenv("FLOE_URL") ?: "http://127.0.0.1:8080"
    val url = URI.create("$base/api/v1/topics/${arguments[0]}/events")
    generateSequence(::readLine).chunked(500).forEach { send(url, it) }
}
