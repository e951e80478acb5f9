// kafka-go, driven as python/drivers/wire.py tells.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"floe/protocol-tests/wire"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
)

var codecs = map[string]kafka.Compression{
	"none": 0, "gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
}

// byNumber sends each message to the partition that it names.
type byNumber struct{}

func (byNumber) Balance(message kafka.Message, _ ...int) int { return message.WriterData.(int) }

// The library's own limits are 5 and 10 s; what it sends again after them is stored twice.
const patience = 30 * time.Second

func within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

func mechanism() sasl.Mechanism {
	if token := os.Getenv("KAFKA_TOKEN"); token != "" {
		return plain.Mechanism{Username: "user", Password: token}
	}
	return nil
}

func transport() *kafka.Transport {
	return &kafka.Transport{DialTimeout: patience, SASL: mechanism()}
}

func dialer() *kafka.Dialer {
	return &kafka.Dialer{Timeout: patience, SASLMechanism: mechanism()}
}

func client() *kafka.Client {
	return &kafka.Client{Addr: kafka.TCP(os.Args[1]), Timeout: patience, Transport: transport()}
}

func produce(request wire.Request) (any, error) {
	writer := &kafka.Writer{
		Addr:                   kafka.TCP(os.Args[1]),
		Transport:              transport(),
		Topic:                  request.Topic,
		Balancer:               byNumber{},
		RequiredAcks:           kafka.RequireAll,
		Compression:            codecs[request.Codec],
		BatchTimeout:           50 * time.Millisecond,
		ReadTimeout:            patience,
		WriteTimeout:           patience,
		AllowAutoTopicCreation: true,
	}
	messages := make([]kafka.Message, 0, len(request.Records))
	for _, one := range request.Records {
		message := kafka.Message{
			Key: one.Key, Value: one.Value, Time: time.UnixMilli(one.Timestamp), WriterData: int(one.Partition),
		}
		for _, header := range one.Headers {
			message.Headers = append(message.Headers, kafka.Header{Key: header.Name, Value: header.Value})
		}
		messages = append(messages, message)
	}
	ctx, cancel := within()
	defer cancel()
	return len(messages), errors.Join(writer.WriteMessages(ctx, messages...), writer.Close())
}

func fetch(request wire.Request) (any, error) {
	found := []wire.Record{}
	ctx, cancel := within()
	defer cancel()
	for partition := range int(request.Partitions) {
		leader, err := dialer().DialLeader(ctx, "tcp", os.Args[1], request.Topic, partition)
		if err != nil {
			return nil, err
		}
		end, err := leader.ReadLastOffset()
		_ = leader.Close()
		if err != nil {
			return nil, err
		}
		reader := kafka.NewReader(kafka.ReaderConfig{
			Dialer:  dialer(),
			Brokers: []string{os.Args[1]}, Topic: request.Topic, Partition: partition, MaxWait: 200 * time.Millisecond,
		})
		for next := int64(0); next < end; {
			got, err := reader.ReadMessage(ctx)
			if err != nil {
				return nil, err
			}
			record := wire.Record{
				Partition: int32(got.Partition), Key: got.Key, Value: got.Value,
				Headers: []wire.Header{}, Timestamp: got.Time.UnixMilli(),
			}
			for _, header := range got.Headers {
				record.Headers = append(record.Headers, wire.Header{Name: header.Key, Value: header.Value})
			}
			found, next = append(found, record), got.Offset+1
		}
		_ = reader.Close()
	}
	return found, nil
}

func admin(request wire.Request) (any, error) {
	ctx, cancel := within()
	defer cancel()
	topic, seen := request.Topic, wire.Seen{}
	made, err := client().CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{
		Topic: topic, NumPartitions: 3, ReplicationFactor: 1,
		ConfigEntries: []kafka.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: "3600000"}},
	}}})
	if err = errors.Join(err, made.Errors[topic]); err != nil {
		return nil, err
	}
	if seen.Partitions, err = partitions(ctx, topic); err != nil {
		return nil, err
	}
	before, err := retention(ctx, topic)
	if err != nil {
		return nil, err
	}
	_, err = client().IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{
		Resources: []kafka.IncrementalAlterConfigsRequestResource{{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: topic,
			Configs: []kafka.IncrementalAlterConfigsRequestConfig{{
				Name: "retention.ms", Value: "7200000", ConfigOperation: kafka.ConfigOperationSet,
			}},
		}},
	})
	if err != nil {
		return nil, err
	}
	after, err := retention(ctx, topic)
	if err != nil {
		return nil, err
	}
	seen.Retention = []string{before, after}
	grow := &kafka.CreatePartitionsRequest{Topics: []kafka.TopicPartitionsConfig{{Name: topic, Count: 5}}}
	if _, err = client().CreatePartitions(ctx, grow); err != nil {
		return nil, err
	}
	if seen.Grown, err = partitions(ctx, topic); err != nil {
		return nil, err
	}
	if _, err = client().DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{topic}}); err != nil {
		return nil, err
	}
	left, err := client().Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		return nil, err
	}
	seen.Deleted = true
	for _, one := range left.Topics {
		seen.Deleted = seen.Deleted && one.Name != topic
	}
	return seen, nil
}

func partitions(ctx context.Context, topic string) (int, error) {
	answer, err := client().Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topic}})
	if err != nil {
		return 0, err
	}
	return len(answer.Topics[0].Partitions), answer.Topics[0].Error
}

func retention(ctx context.Context, topic string) (string, error) {
	answer, err := client().DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{
		Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kafka.ResourceTypeTopic, ResourceName: topic}},
	})
	if err != nil {
		return "", err
	}
	for _, option := range answer.Resources[0].ConfigEntries {
		if option.ConfigName == "retention.ms" {
			return option.ConfigValue, nil
		}
	}
	return "absent", answer.Resources[0].Error
}

// subscribe reports what the reader logs: it retries for ever and returns no error.
func subscribe(request wire.Request) (any, error) {
	logged := make(chan string, 100)
	reader := kafka.NewReader(kafka.ReaderConfig{
		Dialer:  dialer(),
		Brokers: []string{os.Args[1]}, GroupID: "g", Topic: request.Topic,
		ErrorLogger: kafka.LoggerFunc(func(text string, arguments ...any) {
			select {
			case logged <- fmt.Sprintf(text, arguments...):
			default:
			}
		}),
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := reader.ReadMessage(ctx)
		ended <- err
	}()
	defer func() { go reader.Close() }()
	select {
	case line := <-logged:
		return line, nil
	case err := <-ended:
		return wire.Text(err), nil
	}
}

// transactions asks for a transactional producer id: the library has no transactional writer.
func transactions(wire.Request) (any, error) {
	ctx, cancel := within()
	defer cancel()
	answer, err := client().InitProducerID(ctx, &kafka.InitProducerIDRequest{TransactionalID: "t", TransactionTimeoutMs: 60_000})
	if err == nil {
		err = answer.Error
	}
	return wire.Text(err), nil
}

func main() {
	wire.Serve(map[string]func(wire.Request) (any, error){
		"produce": produce, "fetch": fetch, "admin": admin, "subscribe": subscribe, "transactions": transactions,
	})
}
