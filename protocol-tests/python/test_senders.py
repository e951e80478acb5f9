"""Senders that know other servers: OpenTelemetry's own exporters, protobuf with gzip."""

import importlib.metadata
import logging
import os
import re
import subprocess
import threading
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from clients import ENV
from conftest import eventually, free_port

EXPORTERS = ("OpenTelemetry exporters (Python, OTLP/HTTP)", importlib.metadata.version("opentelemetry-exporter-otlp-proto-http"))

COLLECTOR = ENV / "collector"
HERE = Path(__file__).resolve()
GO_MOD = (HERE.parents[1] / "go-collector" / "go.mod").read_text()
COLLECTORS = ("OpenTelemetry Collector (otlphttp exporter)", re.search(r"exporter/otlphttpexporter v(\S+)", GO_MOD).group(1))

RESOURCE = Resource({"service.name": "shop", "replicas": 3})


def attributes(pairs):
    """What a struct column has of attributes: members that other rows brought are null."""
    return {key: value for key, value in pairs.items() if value is not None}


def sender(floe):
    """Settings of an exporter whose token may write to the default topics and to nothing else."""
    floe.make_token("admin")
    token = floe.make_token("otel", "write:topic:otel_*", "create:topic:otel_*")
    return {"headers": {"token": token}, "compression": Compression.Gzip, "timeout": 120}


@pytest.mark.compat("spans, logs and data points become rows, protobuf with gzip and a token", client=EXPORTERS)
def test_spans_logs_and_points_of_the_exporters_are_rows(floe):
    settings = sender(floe)
    tracers = TracerProvider(resource=RESOURCE)
    tracers.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{floe.url}/v1/traces", **settings)))
    tracer = tracers.get_tracer("lib", "1.2")
    with tracer.start_as_current_span("outer", kind=trace.SpanKind.SERVER) as outer:
        link = trace.Link(outer.get_span_context(), {"why": "test"})
        with tracer.start_as_current_span("inner", attributes={"n": 7, "list": [1, 2]}, links=[link]) as inner:
            inner.add_event("happened", {"ok": True})
            inner.set_status(trace.StatusCode.ERROR, "broken")
    loggers = LoggerProvider(resource=RESOURCE)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(f"{floe.url}/v1/logs", **settings)))
    loggers.get_logger("lib").emit(
        LogRecord(
            timestamp=1_700_000_000_123_456_789,
            severity_number=SeverityNumber.WARN,
            severity_text="WARN",
            body="disk is full",
            attributes={"disk": "sda", "free": 0.5},
        )
    )
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{floe.url}/v1/metrics", **settings))
    meters = MeterProvider(resource=RESOURCE, metric_readers=[reader])
    meters.get_meter("lib").create_counter("orders", "1", "orders that were made").add(7, {"kind": "a"})
    meters.get_meter("lib").create_histogram("latency", "ms").record(12.5)
    for provider in (tracers, loggers, meters):
        provider.shutdown()

    for topic in ("otel_traces", "otel_logs", "otel_metrics"):
        floe.flush(topic)
    spans = {row["name"]: row for row in floe.rows("streams.otel_traces").to_pylist()}
    assert set(spans) == {"outer", "inner"}
    assert spans["outer"]["kind"] == "SERVER" and spans["outer"]["status_code"] == "UNSET"
    row = spans["inner"]
    assert row["trace_id"] == spans["outer"]["trace_id"] == f"{outer.get_span_context().trace_id:032x}"
    assert row["parent_span_id"] == spans["outer"]["span_id"] == f"{outer.get_span_context().span_id:016x}"
    assert (row["status_code"], row["status_message"]) == ("ERROR", "broken")
    assert attributes(row["attributes"]) == {"n": 7, "list": [1, 2]}
    assert row["events"][0]["name"] == "happened" and row["events"][0]["attributes"]["ok"] is True
    assert row["links"][0]["span_id"] == spans["outer"]["span_id"]
    assert row["resource"] == {"service.name": "shop", "replicas": 3}
    assert row["scope"] == {"name": "lib", "version": "1.2"}
    assert row["timestamp"] <= row["end_timestamp"]
    (log,) = floe.rows("streams.otel_logs").to_pylist()
    assert log["timestamp"] == "2023-11-14T22:13:20.123456789Z"
    assert (log["severity_number"], log["severity_text"], log["body"]) == (13, "WARN", "disk is full")
    assert log["attributes"] == {"disk": "sda", "free": 0.5}
    points = {row["metric_name"]: row for row in floe.rows("streams.otel_metrics").to_pylist()}
    assert points["orders"]["value"] == 7.0 and points["orders"]["is_monotonic"] is True
    assert points["orders"]["metric_type"] == "sum" and points["orders"]["aggregation_temporality"] == "CUMULATIVE"
    assert attributes(points["orders"]["attributes"]) == {"kind": "a"}
    assert (points["latency"]["count"], points["latency"]["sum"]) == (1, 12.5)
    assert sum(points["latency"]["bucket_counts"]) == 1


@pytest.mark.compat("spans and logs through a source with a secret become rows of its sinks", client=EXPORTERS)
def test_exporters_send_to_a_source(floe):
    floe.post_json("/v1/branches/default/sources", {"type": "otlp", "name": "telemetry"})
    endpoint = floe.get("/v1/branches/default/sources/telemetry")["otlp"]
    mapping = {"columns": [{"type": "path", "name": "name", "path": "name", "rawString": True}]}
    of_spans = {"type": "table", "name": "spans", "allowedSignals": ["traces"]}
    of_spans["table"] = {"type": "keboola", "tableId": "in.otel.spans", "mapping": mapping}
    content = 'Body("resource")["service.name"] + ": " + Body("body")'
    template = {"type": "template", "name": "told", "rawString": True, "template": {"language": "jsonnet", "content": content}}
    of_logs = {"type": "table", "name": "logs", "allowedSignals": ["logs"]}
    of_logs["table"] = {"type": "keboola", "tableId": "in.otel.logs", "mapping": {"columns": [template]}}
    for sink in (of_spans, of_logs):
        floe.post_json("/v1/branches/default/sources/telemetry/sinks", sink)
    settings = {"compression": Compression.Gzip, "timeout": 120}
    tracers = TracerProvider(resource=RESOURCE)
    tracers.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{endpoint['url']}/v1/traces", **settings)))
    with tracers.get_tracer("lib").start_as_current_span("checkout"):
        pass
    bearer = {"headers": {"authorization": f"Bearer {endpoint['secret']}"}, **settings}
    loggers = LoggerProvider(resource=RESOURCE)
    exporter = OTLPLogExporter(f"{endpoint['baseUrl']}/v1/logs", **bearer)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    loggers.get_logger("lib").emit(LogRecord(body="disk is full", severity_text="WARN"))
    for provider in (tracers, loggers):
        provider.shutdown()
    for table in ("in.otel.spans", "in.otel.logs"):
        floe.post(f"/api/v1/tables/{table}/flush")
    assert floe.rows("in.otel.spans").column("name").to_pylist() == ["checkout"]
    assert floe.rows("in.otel.logs").column("told").to_pylist() == ["shop: disk is full"]


@pytest.mark.compat("what is refused is dropped with a warning; a restart loses nothing", client=EXPORTERS)
def test_an_exporter_drops_what_is_refused_and_keeps_what_may_pass(floe, caplog):
    settings = sender(floe)
    exporter = OTLPSpanExporter(f"{floe.url}/otlp/other/v1/traces", **settings)
    tracers = TracerProvider(resource=RESOURCE)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    with caplog.at_level(logging.WARNING):
        tracers.get_tracer("lib").start_span("refused").end()
    assert "403" in caplog.text, caplog.text
    # While the server is away the exporter waits, and its spans are stored once it is back.
    floe.stop()
    threading.Timer(2, floe.start).start()
    exporter = OTLPSpanExporter(f"{floe.url}/v1/traces", **settings)
    tracers = TracerProvider(resource=RESOURCE)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    tracers.get_tracer("lib").start_span("kept").end()
    tracers.shutdown()
    floe.flush("otel_traces")
    assert [row["name"] for row in floe.rows("streams.otel_traces").to_pylist()] == ["kept"]


@pytest.fixture
def collector(floe, tmp_path):
    """A Collector with the configuration that docs/http.md has, behind a receiver; its exporter's format can be chosen."""
    if (COLLECTOR / "missing").exists():
        pytest.skip((COLLECTOR / "missing").read_text().strip())
    floe.make_token("admin")
    token = floe.make_token("collector", "write:topic:otel_*", "create:topic:otel_*")
    page = (HERE.parents[2] / "docs" / "http.md").read_text()
    documented = re.search(r"```yaml\n# OpenTelemetry Collector.*?\n(.*?)```", page, re.DOTALL).group(1)
    documented = documented.replace("http://127.0.0.1:8080", floe.url)
    processes = []

    def start(more=""):
        port = free_port()
        receiver = f"receivers:\n  otlp:\n    protocols:\n      http: {{endpoint: 127.0.0.1:{port}}}\n"
        config = documented.replace("    compression: gzip\n", f"    compression: gzip\n{more}")
        config += "  telemetry:\n    metrics: {level: none}\n"
        (tmp_path / "collector.yaml").write_text(receiver + config)
        log = (tmp_path / f"collector-{port}.log").open("wb")
        command = [COLLECTOR / "collector", "--config", f"file:{tmp_path / 'collector.yaml'}"]
        processes.append(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, env={**os.environ, "FLOE_TOKEN": token}))
        return f"http://127.0.0.1:{port}"

    yield start
    for process in processes:
        process.kill()
        process.wait()


def send_through(url, name):
    """Sends a span through the Collector at `url`."""
    tracers = TracerProvider(resource=RESOURCE)
    exporter = OTLPSpanExporter(f"{url}/v1/traces", timeout=60)
    span = []

    class Keep(SimpleSpanProcessor):
        def on_end(self, ended):
            span.append(ended)

    tracers.add_span_processor(Keep(exporter))
    tracers.get_tracer("lib").start_span(name).end()
    eventually(lambda: exporter.export(span).name == "SUCCESS")
    exporter.shutdown()


@pytest.mark.compat("protobuf and JSON with gzip, by the documented configuration; a restart of Floe loses nothing", client=COLLECTORS)
def test_a_collector_sends_what_it_receives(floe, collector):
    url = collector()
    send_through(url, "as protobuf")
    url_json = collector("    encoding: json\n")
    send_through(url_json, "as JSON")
    # Both wait in the Collector's queue or are there; then Floe is away, and the Collector keeps what comes.
    eventually(lambda: floe.get("/api/v1/topics")["topics"])
    floe.stop()
    send_through(url, "while away")
    floe.start()

    def names():
        floe.flush("otel_traces")
        found = sorted(row["name"] for row in floe.rows("streams.otel_traces").to_pylist())
        return found if len(found) >= 3 else None

    assert eventually(names) == ["as JSON", "as protobuf", "while away"]
