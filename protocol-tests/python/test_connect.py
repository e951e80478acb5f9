"""Kafka Connect: a worker with Floe as its cluster, and HTTP sinks that read Apache Kafka and write to Floe.

The sink is one of our own that imitates Aiven's, inside of a real worker. HTTP_SINK_CONNECTOR_DIR names a folder with the jars of a
real one, which is in no registry: it is run too, then. With a file `connector.properties` beside its jars it may be any sink: the file
says its class and its options, in which FLOE_URL stands for Floe's address; without the file it is Aiven's.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from clients import ENV
from conftest import eventually, free_port

JAVA = ("java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
SINK_JARS = os.environ.get("HTTP_SINK_CONNECTOR_DIR")
POM = (Path(__file__).resolve().parents[1] / "java" / "connect" / "pom.xml").read_text()
VERSION = re.search(r"<kafka.version>(.+)</kafka.version>", POM).group(1)


def need(folder):
    note = ENV / folder / "missing"
    if note.exists():
        pytest.skip(note.read_text().strip())


class Process:
    """A Java program with its own folder and log."""

    def __init__(self, directory, jars, arguments, log):
        self.log_path = directory / log
        self.log = self.log_path.open("ab")
        command = [*JAVA, "-cp", jars, *arguments]
        self.process = subprocess.Popen(command, cwd=directory, stdout=self.log, stderr=self.log)

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(180)
        self.log.close()

    def tail(self):
        return self.log_path.read_text(errors="replace")[-4000:]


class Worker:
    """A standalone Connect worker; its offsets outlive it."""

    def __init__(self, directory, bootstrap, connector, more=None):
        self.directory, self.port = directory, free_port()
        properties = {
            "bootstrap.servers": bootstrap,
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.storage.StringConverter",
            "offset.storage.file.filename": directory / "offsets",
            "offset.flush.interval.ms": 500,
            # Who is ended before it wrote its offsets down sends again: its own limits are 5 s.
            "offset.flush.timeout.ms": 60_000,
            "task.shutdown.graceful.timeout.ms": 60_000,
            "listeners": f"http://127.0.0.1:{self.port}",
            "plugin.discovery": "hybrid_warn",
            **(more or {}),
        }
        self.write("worker.properties", properties)
        (directory / "connector.json").write_text(json.dumps(connector))
        self.name = connector["name"]
        self.start()

    def write(self, name, properties):
        (self.directory / name).write_text("".join(f"{key}={value}\n" for key, value in properties.items()))

    def start(self):
        main = ("org.apache.kafka.connect.cli.ConnectStandalone", "worker.properties", "connector.json")
        self.process = Process(self.directory, f"{ENV}/connect/*", main, "worker.log")

    def state(self):
        """State of the connector's task, or None before it has one."""
        assert self.process.process.poll() is None, self.process.tail()
        try:
            url = f"http://127.0.0.1:{self.port}/connectors/{self.name}/status"
            tasks = json.load(urllib.request.urlopen(url, timeout=10))["tasks"]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None
        return tasks[0]["state"] if tasks else None


@pytest.fixture
def started():
    """Ends what a test started."""
    processes = []
    yield processes
    for one in processes:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def records(floe, topic):
    described = floe.get(f"/api/v1/topics/{topic}")
    return sum(partition["high_watermark"] for partition in described["partitions"])


@pytest.mark.compat("a worker with Floe as its cluster: a file into a topic, through kill -9 and restarts", client=("Kafka Connect", VERSION))
def test_a_standalone_worker_writes_to_floe(floe, tmp_path, started):
    need("connect")
    source = tmp_path / "lines.ndjson"
    written = 0

    def write(count):
        nonlocal written
        with source.open("a") as file:
            for i in range(written, written + count):
                file.write(json.dumps({"id": i, "text": "x" * 100}) + "\n")
        written += count

    write(2_000)
    connector = {
        "name": "lines",
        "config": {
            "connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector",
            "tasks.max": "1",
            "file": str(source),
            "topic": "lines",
        },
    }
    # Connect's own default is off; with it a batch that was sent twice is stored once.
    worker = Worker(tmp_path, floe.bootstrap, connector, {"producer.enable.idempotence": "true"})
    started.append(worker.process)
    eventually(lambda: worker.state() == "RUNNING", 300)
    eventually(lambda: floe.get("/api/v1/topics")["topics"] and records(floe, "lines") >= 500)
    floe.kill()
    floe.log.close()
    write(2_000)
    floe.start()
    eventually(lambda: records(floe, "lines") == written)
    # A worker that ends in order has written down how far it was.
    worker.process.end()
    write(1_000)
    worker.start()
    started.append(worker.process)
    eventually(lambda: records(floe, "lines") >= written, 300)
    worker.process.end()
    assert records(floe, "lines") == written, worker.process.tail()
    assert floe.flush("lines")["rows"] == written
    assert sorted(floe.rows("streams.lines").column("id").to_pylist()) == list(range(written))


class Kafka:
    """Apache Kafka, one broker."""

    def __init__(self, directory, started):
        directory.mkdir()
        port, controller = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{port}"
        jars = f"{ENV}/connect/*"
        (directory / "kafka.properties").write_text(
            "process.roles=broker,controller\nnode.id=1\ncontroller.listener.names=CONTROLLER\n"
            f"controller.quorum.voters=1@127.0.0.1:{controller}\n"
            f"listeners=PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{controller}\n"
            f"advertised.listeners=PLAINTEXT://{self.bootstrap}\nlog.dirs={directory}/data\n"
            "offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n"
            "group.initial.rebalance.delay.ms=0\nnum.partitions=1\n"
        )
        form = (*JAVA, "-cp", jars, "kafka.tools.StorageTool", "format", "-t", "0" * 21 + "1", "-c", "kafka.properties")
        subprocess.run(form, cwd=directory, check=True, capture_output=True, timeout=300)
        self.process = Process(directory, jars, ("kafka.Kafka", "kafka.properties"), "kafka.log")
        started.append(self.process)

    def produce(self, topic, values):
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.bootstrap, "message.timeout.ms": 300_000})
        for i, value in enumerate(values):
            producer.produce(topic, value, f"k{i % 10}")
            producer.poll(0)
        assert producer.flush(300) == 0


ARRAY = {"batch.prefix": "[", "batch.separator": ",", "batch.suffix": "]", "http.headers.content.type": "application/json"}
BATCHES = {"batching.enabled": "true", "batch.max.size": "500"}
AIVEN = "io.aiven.kafka.connect.http.HttpSinkConnector"
# What Aiven's and ours need.
COMMON = {
    "http.url": "FLOE_URL/api/v1/topics/orders/events?dedup_field=$.id",
    "http.authorization.type": "none",
    # The task fails once they are spent: longer than Floe is away.
    "max.retries": "600",
    "retry.backoff.ms": "500",
}
# Names of those whose requests have one record each.
SINGLE = ("aiven-A1",)


def properties(path):
    """What a file has of the form that workers read."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    return {key.strip(): value.strip() for key, value in pairs}


def sinks():
    """The options of each sink by its name."""
    ours = {"ours": {"connector.class": "HttpSink", **COMMON, **BATCHES, **ARRAY}}
    own = Path(SINK_JARS or "") / "connector.properties"
    if SINK_JARS and own.is_file():
        return {**ours, "own": properties(own)}
    aiven = {"connector.class": AIVEN, **COMMON}
    return {**ours, "aiven-A1": aiven, "aiven-A2": {**aiven, **BATCHES}, "aiven-A3": {**aiven, **BATCHES, **ARRAY}}


SINKS = sinks()


@pytest.mark.compat("an HTTP sink reads Apache Kafka and writes to Floe, through kill -9 of both", client=("Kafka Connect", VERSION))
@pytest.mark.parametrize("name", SINKS)
def test_an_http_sink_loses_nothing(name, floe, tmp_path, started, compat_note):
    need("connect")
    jars = ENV / "connect" / "http-sink" if name == "ours" else SINK_JARS
    if not jars:
        pytest.skip(f"{name}: HTTP_SINK_CONNECTOR_DIR names no folder with the jars of the connector")
    # A plugin is a folder of jars inside of the one that the worker is told.
    plugins = tmp_path / "plugins"
    shutil.copytree(jars, plugins / "http-sink")
    kafka = Kafka(tmp_path / "kafka", started)
    count = 400 if name in SINGLE else 5_000
    values = [json.dumps({"id": i}) for i in range(3 * count)]
    kafka.produce("orders", values[:count])
    config = {
        "tasks.max": "1",
        "topics": "orders",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        **{key: value.replace("FLOE_URL", floe.url) for key, value in SINKS[name].items()},
    }
    folder = tmp_path / "worker"
    folder.mkdir()
    # Who is killed is still a member of the group for as long as its session.
    worker_more = {"plugin.path": plugins, "consumer.auto.offset.reset": "earliest", "consumer.session.timeout.ms": 6_000}
    worker = Worker(folder, kafka.bootstrap, {"name": "sink", "config": config}, worker_more)
    started.append(worker.process)
    eventually(lambda: floe.get("/api/v1/topics")["topics"] and records(floe, "orders") > 0, 300)
    floe.kill()
    floe.log.close()
    kafka.produce("orders", values[count : 2 * count])
    time.sleep(1)
    floe.start()
    eventually(lambda: records(floe, "orders") > count)
    worker.process.end(signal.SIGKILL)
    kafka.produce("orders", values[2 * count :])
    worker.start()
    started.append(worker.process)
    eventually(lambda: records(floe, "orders") >= len(values), 300)
    eventually(lambda: worker.state() == "RUNNING")
    # What the worker delivered again has the same ids.
    assert floe.flush("orders")["rows"] == len(values)
    assert sorted(floe.rows("streams.orders").column("id").to_pylist()) == list(range(len(values)))
    compat_note("works, with a sink of our own that imitates Aiven's" if name == "ours" else f"works: {name}")
