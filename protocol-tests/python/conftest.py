"""Harness: the real binary on free ports with a data directory of its own."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest_plugins = ["compat"]
FLOE_BIN = os.environ["FLOE_BIN"]


def ports_for_servers():
    """Ports in any order, below those that the kernel gives to whoever asks for none: it would give ours away while a server is down."""
    try:
        end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        end = 32_768
    ports = list(range(10_000, max(end, 20_000)))
    random.shuffle(ports)
    return ports


PORTS = ports_for_servers()


def free_port() -> int:
    """A free port that no other call gets."""
    while True:
        with socket.socket() as probe:
            port = PORTS.pop()
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass  # It is another's.


def eventually(check, timeout_s=120.0, pause_s=0.05):
    """Returns the first truthy value of check(); fails with the last one after timeout_s."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < deadline, f"still {value!r} after {timeout_s} s"
        time.sleep(pause_s)


class Floe:
    """A server process. Ports and data directory outlive kills and restarts."""

    def __init__(self, directory: Path, *flags: str):
        self.directory = directory
        self.flags = flags
        self.kafka_port, self.http_port = free_port(), free_port()
        # What our own requests are sent with.
        self.token = None
        self.process = None
        self.start()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.kafka_port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def start(self):
        self.log = open(self.directory / "floe.log", "ab")
        self.process = subprocess.Popen(
            [
                FLOE_BIN,
                "serve",
                "--data-dir",
                str(self.directory / "data"),
                "--kafka-listen",
                self.bootstrap,
                "--http-listen",
                f"127.0.0.1:{self.http_port}",
                "--wal-file-bytes",
                "16MiB",
                "--disk-free-min-bytes",
                "64MiB",
                *self.flags,
            ],
            stdout=self.log,
            stderr=self.log,
        )
        eventually(self.is_ready)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.tail()
        try:
            return urllib.request.urlopen(f"{self.url}/readyz", timeout=5).status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def said(self) -> str:
        return (self.directory / "floe.log").read_text(errors="replace")

    def tail(self) -> str:
        return self.said()[-4000:]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout_s=60):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout_s)
        assert code == 0, self.tail()

    def headers(self):
        return {"token": self.token} if self.token else {}

    def get(self, path: str):
        request = urllib.request.Request(self.url + path, headers=self.headers())
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def send(self, method: str, path: str, body: bytes = b"", headers=None):
        request = urllib.request.Request(
            self.url + path, data=body, headers={**self.headers(), **(headers or {})}, method=method
        )
        # A flush takes up to a minute before it is refused.
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)

    def post(self, path: str, body: bytes = b"", headers=None):
        return self.send("POST", path, body, headers)

    def post_json(self, path: str, value):
        return self.post(path, json.dumps(value).encode(), {"content-type": "application/json"})

    def put_json(self, path: str, value):
        return self.send("PUT", path, json.dumps(value).encode(), {"content-type": "application/json"})

    def make_token(self, name: str, *rules: str) -> str:
        """A token with these rules; the first one is what our own requests are sent with from now on."""
        token = self.post_json("/api/v1/tokens", {"name": name, "allow": list(rules)})["token"]
        self.token = self.token or token
        return token

    def flush(self, topic: str):
        """Waits until everything appended so far is in the table."""
        return self.post(f"/api/v1/tables/streams.{topic}/flush")

    def catalog(self, **options):
        from pyiceberg.catalog import load_catalog

        if self.token and not options:
            options = {"token": self.token}
        return load_catalog("floe", type="rest", uri=f"{self.url}/iceberg", **options)

    def rows(self, table: str):
        """All rows of a table as PyIceberg reads them, as an Arrow table."""
        return self.catalog().load_table(table).scan().to_arrow()

    def duckdb(self, secret=None):
        """A DuckDB connection with our catalog attached as `f`; `secret` are options of an Iceberg secret."""
        import importlib

        import duckdb

        connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
        for name in ("httpfs", "avro", "iceberg"):
            package = importlib.import_module(f"duckdb_extension_{name}")
            found = list(Path(package.__path__[0]).rglob(f"{name}.duckdb_extension"))
            connection.execute(f"LOAD '{found[0]}'")
        login = "AUTHORIZATION_TYPE 'none'"
        if secret:
            connection.execute(f"CREATE SECRET floe (TYPE iceberg, {secret})")
            login = "SECRET floe"
        connection.execute(f"ATTACH '' AS f (TYPE iceberg, ENDPOINT '{self.url}/iceberg', {login})")
        return connection


@pytest.fixture
def floe_factory(tmp_path):
    servers = []

    def make(*flags: str) -> Floe:
        directory = tmp_path / f"floe{len(servers)}"
        directory.mkdir()
        server = Floe(directory, *flags)
        servers.append(server)
        return server

    yield make
    for server in servers:
        if server.process.poll() is None:
            server.kill()
        server.log.close()


@pytest.fixture
def floe(floe_factory) -> Floe:
    return floe_factory()


def offsets_of(rows):
    """(partition, offset) of every row, sorted."""
    return sorted((row["partition"], row["offset"]) for row in rows.column("floe").to_pylist())


def assert_each_once(pairs):
    assert len(pairs) == len(set(pairs)), "a record is in the table twice"


sys.path.insert(0, str(Path(__file__).parent))
