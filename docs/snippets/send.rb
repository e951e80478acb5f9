# Sends JSON lines from standard input to a topic: in batches, compressed, each batch once.
#   FLOE_TOKEN=… ruby send.rb orders < events.ndjson
require "net/http"
require "securerandom"
require "zlib"

URL = URI("#{ENV.fetch("FLOE_URL", "http://127.0.0.1:8080")}/api/v1/topics/#{ARGV.shift}/events")

def post(lines)
  request = Net::HTTP::Post.new(URL)
  request["Content-Type"] = "application/x-ndjson"
  request["Content-Encoding"] = "gzip"
  # One key for all attempts: whatever happens in between, the batch is stored once.
  request["Idempotency-Key"] = SecureRandom.uuid
  request["Authorization"] = "Bearer #{ENV["FLOE_TOKEN"]}" if ENV["FLOE_TOKEN"]
  request.body = Zlib.gzip(lines.join)
  pause = 1
  loop do
    wait = pause
    begin
      answer = Net::HTTP.start(URL.host, URL.port, read_timeout: 30, max_retries: 0) { |http| http.request(request) }
      code = answer.code.to_i
      return if code < 300
      abort "refused: #{code} #{answer.body}" if code < 500 && ![408, 409, 429].include?(code)
      wait = Integer(answer["Retry-After"] || pause)
    rescue SystemCallError, IOError, Timeout::Error, Net::ProtocolError => error
      warn "no answer: #{error}"
    end
    sleep wait
    pause = [2 * pause, 30].min
  end
end

$stdin.each_line.each_slice(500) { |lines| post(lines) }
