// Sends JSON lines from standard input to a topic: in batches, compressed, each batch once.
//   FLOE_TOKEN=… dotnet run Send.cs orders < events.ndjson

using System.IO.Compression;
using System.Net.Http.Headers;
using System.Text;

var url = (Environment.GetEnvironmentVariable("FLOE_URL") ?? "http://127.0.0.1:8080") + $"/api/v1/topics/{args[0]}/events";
var token = Environment.GetEnvironmentVariable("FLOE_TOKEN");
using var client = new HttpClient { Timeout = TimeSpan.FromSeconds(30) };

IEnumerable<string> Lines()
{
    while (Console.ReadLine() is { } line) yield return line;
}

async Task Send(string[] lines)
{
    using var packed = new MemoryStream();
    using (var gzip = new GZipStream(packed, CompressionLevel.Fastest, leaveOpen: true))
    {
        gzip.Write(Encoding.UTF8.GetBytes(string.Join('\n', lines)));
    }
    // One key for all attempts: whatever happens in between, the batch is stored once.
    var key = Guid.NewGuid().ToString();
    for (var pause = 1.0; ; pause = Math.Min(2 * pause, 30))
    {
        var wait = TimeSpan.FromSeconds(pause);
        var request = new HttpRequestMessage(HttpMethod.Post, url) { Content = new ByteArrayContent(packed.ToArray()) };
        request.Content.Headers.ContentType = new MediaTypeHeaderValue("application/x-ndjson");
        request.Content.Headers.ContentEncoding.Add("gzip");
        request.Headers.Add("Idempotency-Key", key);
        if (token != null) request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", token);
        try
        {
            using var answer = await client.SendAsync(request);
            if (answer.IsSuccessStatusCode) return;
            if ((int)answer.StatusCode is < 500 and not (408 or 409 or 429))
            {
                throw new InvalidOperationException($"refused: {answer.StatusCode} {await answer.Content.ReadAsStringAsync()}");
            }
            wait = answer.Headers.RetryAfter?.Delta ?? wait;
        }
        catch (Exception error) when (error is HttpRequestException or TaskCanceledException)
        {
            Console.Error.WriteLine($"no answer: {error.Message}");
        }
        await Task.Delay(wait);
    }
}

foreach (var batch in Lines().Chunk(500)) await Send(batch);
