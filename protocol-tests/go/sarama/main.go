// sarama, driven as python/drivers/wire.py tells. SARAMA_VERSION is what an application pins in its
// configuration; the releases of most deployments then ask for no version of the broker.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"floe/protocol-tests/wire"

	"github.com/IBM/sarama"
)

var codecs = map[string]sarama.CompressionCodec{
	"none":   sarama.CompressionNone,
	"gzip":   sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy,
	"lz4":    sarama.CompressionLZ4,
	"zstd":   sarama.CompressionZSTD,
}

var brokers = []string{os.Args[1]}

func config() *sarama.Config {
	options := sarama.NewConfig()
	if token := os.Getenv("KAFKA_TOKEN"); token != "" {
		options.Net.SASL.Enable = true
		options.Net.SASL.User, options.Net.SASL.Password = "user", token
	}
	if pinned := os.Getenv("SARAMA_VERSION"); pinned != "" {
		version, err := sarama.ParseKafkaVersion(pinned)
		if err != nil {
			panic(err)
		}
		options.Version, options.ApiVersionsRequest = version, false
	}
	return options
}

// bytes keeps absent and empty apart: a nil Encoder is null.
func bytes(data []byte) sarama.Encoder {
	if data == nil {
		return nil
	}
	return sarama.ByteEncoder(data)
}

func produce(request wire.Request) (any, error) {
	options := config()
	options.Producer.Return.Successes = true
	options.Producer.RequiredAcks = sarama.WaitForAll
	options.Producer.Partitioner = sarama.NewManualPartitioner
	options.Producer.Compression = codecs[request.Codec]
	options.Producer.Flush.Frequency = 20 * time.Millisecond
	if request.Idempotent {
		options.Producer.Idempotent = true
		options.Net.MaxOpenRequests = 1
	}
	sender, err := sarama.NewSyncProducer(brokers, options)
	if err != nil {
		return nil, err
	}
	defer sender.Close()
	messages := make([]*sarama.ProducerMessage, 0, len(request.Records))
	for _, one := range request.Records {
		message := &sarama.ProducerMessage{
			Topic:     request.Topic,
			Partition: one.Partition,
			Key:       bytes(one.Key),
			Value:     bytes(one.Value),
			Timestamp: time.UnixMilli(one.Timestamp),
		}
		for _, header := range one.Headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(header.Name), Value: header.Value})
		}
		messages = append(messages, message)
	}
	return len(messages), sender.SendMessages(messages)
}

func fetch(request wire.Request) (any, error) {
	client, err := sarama.NewClient(brokers, config())
	if err != nil {
		return nil, err
	}
	defer client.Close()
	reader, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	found := []wire.Record{}
	for partition := range request.Partitions {
		end, err := client.GetOffset(request.Topic, partition, sarama.OffsetNewest)
		if err != nil {
			return nil, err
		}
		if end == 0 {
			continue
		}
		stream, err := reader.ConsumePartition(request.Topic, partition, sarama.OffsetOldest)
		if err != nil {
			return nil, err
		}
		for next := int64(0); next < end; {
			select {
			case got := <-stream.Messages():
				found, next = append(found, record(got)), got.Offset+1
			case <-time.After(30 * time.Second):
				return nil, fmt.Errorf("partition %d stands at %d of %d", partition, next, end)
			}
		}
		if err := stream.Close(); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func record(got *sarama.ConsumerMessage) wire.Record {
	result := wire.Record{
		Partition: got.Partition,
		Key:       got.Key,
		Value:     got.Value,
		Headers:   []wire.Header{},
		Timestamp: got.Timestamp.UnixMilli(),
	}
	for _, header := range got.Headers {
		result.Headers = append(result.Headers, wire.Header{Name: string(header.Key), Value: header.Value})
	}
	return result
}

func admin(request wire.Request) (any, error) {
	asked, err := sarama.NewClusterAdmin(brokers, config())
	if err != nil {
		return nil, err
	}
	defer asked.Close()
	topic, seen := request.Topic, wire.Seen{}
	first, second := "3600000", "7200000"
	wish := &sarama.TopicDetail{NumPartitions: 3, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &first}}
	if err := asked.CreateTopic(topic, wish, false); err != nil {
		return nil, err
	}
	if seen.Partitions, err = partitions(asked, topic); err != nil {
		return nil, err
	}
	before, err := retention(asked, topic)
	if err != nil {
		return nil, err
	}
	set := map[string]sarama.IncrementalAlterConfigsEntry{"retention.ms": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &second}}
	if err := asked.IncrementalAlterConfig(sarama.TopicResource, topic, set, false); err != nil {
		return nil, err
	}
	after, err := retention(asked, topic)
	if err != nil {
		return nil, err
	}
	seen.Retention = []string{before, after}
	if err := asked.CreatePartitions(topic, 5, nil, false); err != nil {
		return nil, err
	}
	if seen.Grown, err = partitions(asked, topic); err != nil {
		return nil, err
	}
	if err := asked.DeleteTopic(topic); err != nil {
		return nil, err
	}
	left, err := asked.ListTopics()
	_, there := left[topic]
	seen.Deleted = !there
	return seen, err
}

func partitions(asked sarama.ClusterAdmin, topic string) (int, error) {
	described, err := asked.DescribeTopics([]string{topic})
	if err != nil {
		return 0, err
	}
	return len(described[0].Partitions), nil
}

func retention(asked sarama.ClusterAdmin, topic string) (string, error) {
	options, err := asked.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic})
	for _, option := range options {
		if option.Name == "retention.ms" {
			return option.Value, err
		}
	}
	return "absent", err
}

type nobody struct{}

func (nobody) Setup(sarama.ConsumerGroupSession) error                                   { return nil }
func (nobody) Cleanup(sarama.ConsumerGroupSession) error                                 { return nil }
func (nobody) ConsumeClaim(sarama.ConsumerGroupSession, sarama.ConsumerGroupClaim) error { return nil }

func subscribe(request wire.Request) (any, error) {
	group, err := sarama.NewConsumerGroup(brokers, "g", config())
	if err != nil {
		return err.Error(), nil
	}
	ended := make(chan error, 1)
	go func() { ended <- group.Consume(context.Background(), []string{request.Topic}, nobody{}) }()
	select {
	case err := <-ended:
		_ = group.Close()
		return wire.Text(err), nil
	case <-time.After(time.Minute):
		return nil, nil
	}
}

func transactions(wire.Request) (any, error) {
	options := config()
	options.Producer.Return.Successes = true
	options.Producer.RequiredAcks = sarama.WaitForAll
	options.Producer.Idempotent = true
	options.Net.MaxOpenRequests = 1
	options.Producer.Transaction.ID = "t"
	ended := make(chan error, 1)
	go func() {
		sender, err := sarama.NewSyncProducer(brokers, options)
		if err == nil {
			err = sender.BeginTxn()
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		return wire.Text(err), nil
	case <-time.After(time.Minute):
		return nil, nil
	}
}

func main() {
	wire.Serve(map[string]func(wire.Request) (any, error){
		"produce": produce, "fetch": fetch, "admin": admin, "subscribe": subscribe, "transactions": transactions,
	})
}
