// Package wire answers the requests that drive a client program; python/drivers/wire.py tells them.
package wire

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
)

// Header is a record header; a null value is nil.
type Header struct {
	Name  string
	Value []byte
}

// UnmarshalJSON reads the pair [name, base64 or null].
func (h *Header) UnmarshalJSON(data []byte) error {
	return json.Unmarshal(data, &[]any{&h.Name, &h.Value})
}

// MarshalJSON writes the same pair.
func (h Header) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{h.Name, h.Value})
}

// Record is one record; absent keys and values are nil, empty ones are not.
type Record struct {
	Partition int32    `json:"partition"`
	Key       []byte   `json:"key"`
	Value     []byte   `json:"value"`
	Headers   []Header `json:"headers"`
	Timestamp int64    `json:"timestamp"`
}

// Request holds the arguments of all operations.
type Request struct {
	Op         string   `json:"op"`
	Topic      string   `json:"topic"`
	Codec      string   `json:"codec"`
	Idempotent bool     `json:"idempotent"`
	Partitions int32    `json:"partitions"`
	Records    []Record `json:"records"`
}

// Seen is the result of the admin round trip.
type Seen struct {
	Partitions int      `json:"partitions"`
	Retention  []string `json:"retention"`
	Grown      int      `json:"grown"`
	Deleted    bool     `json:"deleted"`
}

// Serve answers requests from stdin with the function of each operation until stdin ends.
func Serve(operations map[string]func(Request) (any, error)) {
	requests := bufio.NewReader(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for {
		line, err := requests.ReadBytes('\n')
		if err != nil {
			return
		}
		var request Request
		if err := json.Unmarshal(line, &request); err != nil {
			panic(err)
		}
		result, err := call(operations[request.Op], request)
		if err != nil {
			_ = answers.Encode(map[string]any{"failed": fmt.Sprintf("%T: %v", err, err)})
		} else {
			_ = answers.Encode(map[string]any{"ok": result})
		}
	}
}

func call(operation func(Request) (any, error), request Request) (result any, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("panic: %v\n%s", fault, debug.Stack())
		}
	}()
	return operation(request)
}

// Text is the text of an error, or nil where there was none.
func Text(err error) any {
	if err == nil {
		return nil
	}
	return err.Error()
}
