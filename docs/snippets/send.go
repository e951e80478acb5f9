// Sends JSON lines from standard input to a topic: in batches, compressed, each batch once.
//
//	FLOE_TOKEN=… go run send.go orders < events.ndjson
package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

var client = http.Client{Timeout: 30 * time.Second}

// attempt returns 0 if the batch is stored, else the seconds to wait.
func attempt(url, key string, body []byte, pause int) int {
	request, err := http.NewRequest("POST", url, bytes.NewReader(body))
	if err != nil {
		fail(err.Error())
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	request.Header.Set("Content-Encoding", "gzip")
	request.Header.Set("Idempotency-Key", key)
	if token := os.Getenv("FLOE_TOKEN"); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := client.Do(request)
	if err != nil {
		fmt.Fprintln(os.Stderr, "no answer:", err)
		return pause
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	switch code := answer.StatusCode; {
	case err != nil:
		return pause
	case code < 300:
		return 0
	case code < 500 && code != 408 && code != 409 && code != 429:
		fail(fmt.Sprintf("refused: %d %s", code, text))
	}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil {
		return seconds
	}
	return pause
}

func send(url string, lines []byte) {
	var body bytes.Buffer
	packed := gzip.NewWriter(&body)
	packed.Write(lines)
	packed.Close()
	// One key for all attempts: whatever happens in between, the batch is stored once.
	key, pause := rand.Text(), 1
	for {
		wait := attempt(url, key, body.Bytes(), pause)
		if wait == 0 {
			return
		}
		time.Sleep(time.Duration(wait) * time.Second)
		pause = min(2*pause, 30)
	}
}

func fail(text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(1)
}

func main() {
	url := os.Getenv("FLOE_URL")
	if url == "" {
		url = "http://127.0.0.1:8080"
	}
	url += "/api/v1/topics/" + os.Args[1] + "/events"
	var batch []byte
	count := 0
	input := bufio.NewReader(os.Stdin)
	for {
		line, err := input.ReadBytes('\n')
		batch, count = append(batch, line...), count+1
		if len(batch) > 0 && (err != nil || count == 500) {
			send(url, batch)
			batch, count = nil, 0
		}
		if err != nil {
			return
		}
	}
}
