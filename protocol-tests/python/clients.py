"""The client programs: what each can do, how it is started, and one request after the other to it."""

import base64
import importlib.metadata
import json
import os
import queue
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ENV = HERE.parent / ".env"
ALL_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
ANSWER_MAX_S = 120


@dataclass(frozen=True)
class Client:
    """One client in one version."""

    title: str
    version: str
    # The folder in .env that holds it; it says there if it is missing.
    folder: str
    command: tuple
    environment: dict = field(default_factory=dict, hash=False)
    codecs: tuple = ALL_CODECS
    idempotent: bool = True
    has_admin: bool = True
    has_transactions: bool = True
    has_groups: bool = True
    has_group_protocol: bool = False
    # It sends what it was configured for, without looking what the broker has.
    asks_for_versions: bool = True
    # What its own interface cannot say: "null_header", "header_order", "header_list" (each name once, sorted).
    lacks: frozenset = frozenset()
    # It reads empty keys, values and header values as absent ones.
    reads_empty_as_null: bool = False

    @property
    def id(self):
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.title} {self.version}".lower())

    @property
    def missing(self):
        """Why it cannot be tried, or None."""
        note = ENV / self.folder / "missing"
        return note.read_text().strip() if note.exists() else None

    def start(self, bootstrap, token=None):
        """The program; with `token` it authenticates by SASL/PLAIN."""
        if self.missing:
            pytest.skip(self.missing)
        return Driver(self, bootstrap, token)


class Driver:
    """A running client program."""

    def __init__(self, client, bootstrap, token=None):
        self.client = client
        sasl = {"KAFKA_TOKEN": token} if token else {}
        self.process = subprocess.Popen(
            [*self.command(), bootstrap],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **client.environment, **sasl},
        )
        self.answers, self.errors = queue.Queue(), []
        threading.Thread(target=self.listen, daemon=True).start()
        threading.Thread(target=self.collect, daemon=True).start()

    def command(self):
        python = ENV / "confluent_1" / "python"
        known = {"old-python": python.read_text().strip() if python.exists() else "", "python": sys.executable}
        return [known.get(part, part) for part in self.client.command]

    def listen(self):
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put(None)

    def collect(self):
        for line in self.process.stderr:
            self.errors.append(line.decode(errors="replace"))

    def ask(self, op, **arguments):
        """The result of one operation; fails if the program fails, ends or hangs."""
        answer = self.answer(op, **arguments)
        assert "ok" in answer, f"{answer['failed']}\n{self.tail()}"
        return answer["ok"]

    def answer(self, op, **arguments):
        """What the program says of one operation, `ok` or `failed`; fails if it ends or hangs."""
        self.process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
        self.process.stdin.flush()
        try:
            line = self.answers.get(timeout=ANSWER_MAX_S)
        except queue.Empty:
            raise AssertionError(f"{self.client.title} hangs in {op}: {self.tail()}") from None
        assert line is not None, f"{self.client.title} ended in {op}: {self.tail()}"
        return json.loads(line)

    def tail(self):
        return "".join(self.errors[-40:])

    def close(self):
        self.process.kill()
        self.process.wait()


def python_client(title, package, program, folder="python", version=None, **rest):
    environment = {} if folder == "python" else {"PYTHONPATH": str(ENV / folder)}
    return Client(
        title,
        version or importlib.metadata.version(package),
        folder,
        ("old-python" if folder == "confluent_1" else "python", str(HERE / "drivers" / program)),
        environment,
        **rest,
    )


def java_client(version, **rest):
    jars = ENV / "java" / version
    options = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
    path = f"{jars}/*:{ENV / 'java' / 'classes'}"
    return Client("Java kafka-clients", version, "java", ("java", *options, "-cp", path, "Client"), **rest)


def go_client(title, module, program, **rest):
    text = (HERE.parent / "go" / "go.mod").read_text()
    version = re.search(rf"{re.escape(module)} v(\S+)", text).group(1)
    return Client(title, version, "go", (str(ENV / "go" / program),), **rest)


def pinned(version):
    """What deployments of old releases do: versions by configuration, whatever the broker advertises."""
    return {"environment": {"SARAMA_VERSION": version}, "asks_for_versions": False}


def node_version(name):
    return json.loads((HERE.parent / "node" / "package.json").read_text())["dependencies"][name]


def rust_version(name):
    text = (HERE.parent / "rust" / "Cargo.toml").read_text()
    return re.search(rf'^{name} = "(.+)"', text, re.MULTILINE).group(1)


NO_NULL_HEADER = frozenset({"null_header"})
CLIENTS = [
    python_client("confluent-kafka (librdkafka)", "confluent-kafka", "confluent.py"),
    python_client("confluent-kafka (librdkafka)", "", "confluent.py", "confluent_1", "1.9.2"),
    python_client("kafka-python", "kafka-python", "kafka_python.py", lacks=NO_NULL_HEADER),
    python_client(
        "kafka-python",
        "",
        "kafka_python.py",
        "kafka_python_2",
        "2.0.6",
        idempotent=False,
        has_transactions=False,
        lacks=NO_NULL_HEADER,
    ),
    python_client("aiokafka", "aiokafka", "aio.py"),
    java_client("2.8.2"),
    java_client("3.9.2", has_group_protocol=True),
    java_client("4.4.0", has_group_protocol=True),
    go_client("franz-go", "github.com/twmb/franz-go", "franz"),
    go_client("sarama", "github.com/IBM/sarama", "sarama"),
    go_client("sarama pinned to 2.8.0 without ApiVersions", "github.com/IBM/sarama", "sarama", **pinned("2.8.0")),
    go_client(
        "sarama pinned to 1.0.0 without ApiVersions",
        "github.com/IBM/sarama",
        "sarama",
        **pinned("1.0.0"),
        codecs=("none", "gzip", "snappy", "lz4"),
        has_admin=False,
    ),
    go_client("kafka-go", "github.com/segmentio/kafka-go", "kafkago", idempotent=False, reads_empty_as_null=True),
    Client(
        "kafkajs",
        node_version("kafkajs"),
        "node",
        ("node", str(HERE.parent / "node" / "kafkajs.js")),
        {"NODE_PATH": str(ENV / "node" / "node_modules")},
        lacks=frozenset({"null_header", "header_order"}),
    ),
    Client(
        "rskafka",
        rust_version("rskafka"),
        "rust",
        (str(ENV / "rust" / "release" / "rskafka-driver"),),
        idempotent=False,
        has_admin=False,
        has_groups=False,
        has_transactions=False,
        lacks=frozenset({"header_list"}),
    ),
]


def encoded(data):
    return None if data is None else base64.b64encode(data).decode()


def sample(codec, idempotent, lacks):
    """Records that take every road a client has: nulls, empties, bytes, doubled headers, large values."""
    start = 1_700_000_000_000
    values = [
        (b"json", b'{"n":1,"text":"\xc3\xa4\xe2\x82\xac"}', []),
        (None, b"no key", [("h", b"1")]),
        (b"tombstone", None, [("why", b"gone")]),
        (b"binary\x00\xff", bytes(range(256)), [("bin", b"\x00\xff"), ("bin", b"again")]),
        (b"large", b"0123456789abcdef" * 4096, []),
        (b"empty value", b"", []),
        (b"", b"empty key", []),
        (b"ordered", b"x", [("a", b"1"), ("b", b"2"), ("a", b"3")]),
        (b"null header", b"x", [("null", None), ("empty", b"")]),
    ]
    dropped = {
        "header_order": {b"ordered"},
        "null_header": {b"null header"},
        "header_list": {b"ordered", b"null header", b"binary\x00\xff"},
    }
    unsayable = set().union(*(dropped[lack] for lack in lacks))
    records = []
    for key, value, headers in values:
        if key in unsayable:
            continue
        headers = [*headers, ("codec", codec.encode()), ("idempotent", str(idempotent).encode())]
        if "header_list" in lacks:
            headers.sort()
        for partition in range(3):
            records.append(
                {
                    "partition": partition,
                    "key": encoded(key),
                    "value": encoded(value),
                    "headers": [[name, encoded(content)] for name, content in headers],
                    "timestamp": start + len(records),
                }
            )
    return records
