// franz-go, driven as python/drivers/wire.py tells.
package main

import (
	"context"
	"os"
	"time"

	"floe/protocol-tests/wire"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

var codecs = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

func client(options ...kgo.Opt) (*kgo.Client, error) {
	if token := os.Getenv("KAFKA_TOKEN"); token != "" {
		options = append(options, kgo.SASL(plain.Auth{User: "user", Pass: token}.AsMechanism()))
	}
	return kgo.NewClient(append(options, kgo.SeedBrokers(os.Args[1]))...)
}

func within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 30*time.Second)
}

func produce(request wire.Request) (any, error) {
	options := []kgo.Opt{
		kgo.DefaultProduceTopic(request.Topic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[request.Codec]),
		kgo.ProducerLinger(50 * time.Millisecond),
		kgo.AllowAutoTopicCreation(),
	}
	if !request.Idempotent {
		options = append(options, kgo.DisableIdempotentWrite())
	}
	sender, err := client(options...)
	if err != nil {
		return nil, err
	}
	defer sender.Close()
	records := make([]*kgo.Record, 0, len(request.Records))
	for _, one := range request.Records {
		record := &kgo.Record{
			Partition: one.Partition,
			Key:       one.Key,
			Value:     one.Value,
			Timestamp: time.UnixMilli(one.Timestamp),
		}
		for _, header := range one.Headers {
			record.Headers = append(record.Headers, kgo.RecordHeader{Key: header.Name, Value: header.Value})
		}
		records = append(records, record)
	}
	ctx, cancel := within()
	defer cancel()
	return len(records), sender.ProduceSync(ctx, records...).FirstErr()
}

func fetch(request wire.Request) (any, error) {
	assigned := map[int32]kgo.Offset{}
	for partition := range request.Partitions {
		assigned[partition] = kgo.NewOffset().AtStart()
	}
	reader, err := client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{request.Topic: assigned}))
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	ctx, cancel := within()
	defer cancel()
	ends, err := kadm.NewClient(reader).ListEndOffsets(ctx, request.Topic)
	if err != nil {
		return nil, err
	}
	wanted := int64(0)
	ends.Each(func(end kadm.ListedOffset) { wanted += end.Offset })
	found := []wire.Record{}
	for int64(len(found)) < wanted {
		fetched := reader.PollFetches(ctx)
		if err := fetched.Err(); err != nil {
			return nil, err
		}
		fetched.EachRecord(func(got *kgo.Record) {
			record := wire.Record{
				Partition: got.Partition,
				Key:       got.Key,
				Value:     got.Value,
				Headers:   []wire.Header{},
				Timestamp: got.Timestamp.UnixMilli(),
			}
			for _, header := range got.Headers {
				record.Headers = append(record.Headers, wire.Header{Name: header.Key, Value: header.Value})
			}
			found = append(found, record)
		})
	}
	return found, nil
}

func admin(request wire.Request) (any, error) {
	base, err := client()
	if err != nil {
		return nil, err
	}
	defer base.Close()
	ctx, cancel := within()
	defer cancel()
	asked, topic, seen := kadm.NewClient(base), request.Topic, wire.Seen{}
	first, second := "3600000", "7200000"
	made, err := asked.CreateTopic(ctx, 3, 1, map[string]*string{"retention.ms": &first}, topic)
	if err != nil || made.Err != nil {
		return nil, firstOf(err, made.Err)
	}
	if seen.Partitions, err = partitions(ctx, asked, topic); err != nil {
		return nil, err
	}
	before, err := retention(ctx, asked, topic)
	if err != nil {
		return nil, err
	}
	if _, err = asked.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &second}}, topic); err != nil {
		return nil, err
	}
	after, err := retention(ctx, asked, topic)
	if err != nil {
		return nil, err
	}
	seen.Retention = []string{before, after}
	if _, err = asked.UpdatePartitions(ctx, 5, topic); err != nil {
		return nil, err
	}
	if seen.Grown, err = partitions(ctx, asked, topic); err != nil {
		return nil, err
	}
	if _, err = asked.DeleteTopic(ctx, topic); err != nil {
		return nil, err
	}
	left, err := asked.ListTopics(ctx)
	seen.Deleted = !left.Has(topic)
	return seen, err
}

func partitions(ctx context.Context, asked *kadm.Client, topic string) (int, error) {
	listed, err := asked.ListTopics(ctx, topic)
	return len(listed[topic].Partitions), err
}

func retention(ctx context.Context, asked *kadm.Client, topic string) (string, error) {
	described, err := asked.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return "", err
	}
	one, err := described.On(topic, nil)
	for _, option := range one.Configs {
		if option.Key == "retention.ms" {
			return option.MaybeValue(), err
		}
	}
	return "absent", err
}

func subscribe(request wire.Request) (any, error) {
	reader, err := client(kgo.ConsumerGroup("g"), kgo.ConsumeTopics(request.Topic))
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	fetched := reader.PollFetches(ctx)
	if ctx.Err() != nil {
		return nil, nil
	}
	return wire.Text(fetched.Err()), nil
}

func transactions(wire.Request) (any, error) {
	sender, err := client(kgo.TransactionalID("t"), kgo.DefaultProduceTopic("transacted"))
	if err != nil {
		return nil, err
	}
	defer sender.Close()
	if err := sender.BeginTransaction(); err != nil {
		return err.Error(), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err = sender.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr()
	if ctx.Err() != nil {
		return nil, nil
	}
	return wire.Text(err), nil
}

func firstOf(errors ...error) error {
	for _, err := range errors {
		if err != nil {
			return err
		}
	}
	return nil
}

func main() {
	wire.Serve(map[string]func(wire.Request) (any, error){
		"produce": produce, "fetch": fetch, "admin": admin, "subscribe": subscribe, "transactions": transactions,
	})
}
