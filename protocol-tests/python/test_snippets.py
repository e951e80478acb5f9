"""The programs of docs/senders.md, against a server behind a proxy that refuses, loses answers and cuts connections."""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conftest import FLOE_BIN, Floe

SNIPPETS = Path(__file__).resolve().parents[2] / "docs" / "snippets"
ENV = Path(__file__).resolve().parents[1] / ".env"
EVENTS, BATCHES = 1_200, 3
# What becomes of a request, by its number.
FAULTS = {0: "busy", 1: "lost", 4: "cut"}


@dataclass(frozen=True)
class Program:
    """One snippet, and how it is run."""

    title: str
    file: str
    # Of the tool that runs it; None where this machine has none.
    tool: str | None
    version: str
    command: tuple
    # What makes `command` of the file, in a folder of its own.
    build: tuple = ()

    @property
    def id(self):
        return self.file

    @property
    def topic(self):
        return "from_" + re.sub(r"\W", "_", self.file)

    def start(self, folder, url, token, data):
        """The running program, with `data` as its input."""
        here = {"SNIPPET": str(SNIPPETS / self.file), "FOLDER": str(folder)}
        filled = lambda parts: [here.get(part, part).replace("FOLDER", here["FOLDER"]) for part in parts]
        own = {"FLOE_URL": url, "FLOE_TOKEN": token, "GOCACHE": str(ENV / "go-cache"), "GOFLAGS": "", "GO111MODULE": "off"}
        environment = {**os.environ, **own}
        if self.build:
            subprocess.run(filled(self.build), cwd=folder, env=environment, check=True, capture_output=True, timeout=300)
        source = folder / "events.ndjson"
        source.write_bytes(data)
        with source.open("rb") as given:
            return subprocess.Popen(
                [*filled(self.command), self.topic],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
            )


def printed(tool, *arguments):
    """The first number that a tool prints of itself."""
    if tool is None:
        return ""
    run = subprocess.run([tool, *arguments], capture_output=True, text=True)
    return re.search(r"\d+\.\d+[.\d]*", run.stdout + run.stderr).group()


def program(title, file, name, command, version=("--version",), build=()):
    tool = shutil.which(name)
    return Program(title, file, tool, printed(tool, *version), command, build)


def rust_program():
    """Built with the server: its crates are those of the tests."""
    built = Path(FLOE_BIN).with_name("send")
    tool = str(built) if built.exists() else None
    return Program("Rust", "send.rs", tool, printed(shutil.which("rustc"), "-V"), (str(built),))


PROGRAMS = [
    program("cURL", "send.sh", "curl", ("sh", "SNIPPET")),
    Program("Python", "send.py", sys.executable, "%d.%d.%d" % sys.version_info[:3], (sys.executable, "SNIPPET")),
    program("JavaScript (Node)", "send.mjs", "node", ("node", "SNIPPET")),
    program("Go", "send.go", "go", ("FOLDER/send",), ("version",), ("go", "build", "-o", "FOLDER/send", "SNIPPET")),
    program("Java", "Send.java", "javac", ("java", "-XX:TieredStopAtLevel=1", "SNIPPET")),
    program(
        "Kotlin",
        "Send.kt",
        "kotlinc",
        ("java", "-jar", "FOLDER/send.jar"),
        ("-version",),
        ("kotlinc", "SNIPPET", "-include-runtime", "-d", "FOLDER/send.jar"),
    ),
    program("C#", "Send.cs", "dotnet", ("dotnet", "run", "SNIPPET")),
    program("Ruby", "send.rb", "ruby", ("ruby", "SNIPPET")),
    rust_program(),
]
EVERY = pytest.mark.parametrize("client", PROGRAMS, ids=lambda client: client.id)


class Proxy:
    """Passes requests on to `port`, but for those in FAULTS; keeps what it saw."""

    def __init__(self, port):
        self.port, self.seen, self.lock = port, [], threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with proxy.lock:
                    number = len(proxy.seen)
                    proxy.seen.append({"at": time.monotonic(), **{name.lower(): value for name, value in self.headers.items()}})
                proxy.answer(self, FAULTS.get(number), body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, handler, fault, body):
        if fault == "busy":
            return self.respond(handler, 503, b"{}", {"Retry-After": "1"})
        if fault != "cut":
            upstream = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            headers = {name: value for name, value in handler.headers.items() if name.lower() != "host"}
            upstream.request("POST", handler.path, body, {**headers, "Connection": "close"})
            answer = upstream.getresponse()
            text = answer.read()
            upstream.close()
        if fault:
            handler.close_connection = True
            return None
        return self.respond(handler, answer.status, text, {})

    @staticmethod
    def respond(handler, status, text, headers):
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text)


@dataclass
class Ran:
    proxy: Proxy
    code: int
    said: str


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Floe(tmp_path_factory.mktemp("snippets"))
    server.make_token("admin")
    yield server
    server.kill()
    server.log.close()


@pytest.fixture(scope="module")
def runs(server, tmp_path_factory):
    """All programs at once: most of the time they wait."""
    token = server.make_token("sender", "write:topic:from_*", "create:topic:from_*")
    data = b"".join(b'{"id":%d,"text":"gr\xc3\xbc\xc3\x9fe"}\n' % i for i in range(EVENTS))
    started = []
    for one in PROGRAMS:
        if one.tool:
            proxy = Proxy(server.http_port)
            folder = tmp_path_factory.mktemp("program")
            started.append((one, proxy, one.start(folder, proxy.url, token, data)))
    done = {}
    for one, proxy, process in started:
        said, _ = process.communicate(timeout=300)
        done[one.file] = Ran(proxy, process.returncode, said.decode(errors="replace"))
    return done


def needs(client):
    if not client.tool:
        pytest.skip("no toolchain on this machine")


@pytest.mark.compat("docs/senders.md: 503, a lost answer and a cut connection; each event once")
@EVERY
def test_every_program_stores_each_event_once_whatever_happens(client, server, runs):
    needs(client)
    ran = runs[client.file]
    assert ran.code == 0, ran.said
    seen = ran.proxy.seen
    keys = [request["idempotency-key"] for request in seen]
    assert len(seen) == BATCHES + len(FAULTS), ran.said
    assert len(set(keys)) == BATCHES and len(set(keys[:3])) == 1, "one key for all attempts of a batch"
    assert seen[1]["at"] - seen[0]["at"] >= 0.95, "Retry-After is honoured"
    assert {request["content-encoding"] for request in seen} == {"gzip"}
    assert server.flush(client.topic)["rows"] == EVENTS
    rows = server.rows(f"streams.{client.topic}")
    assert sorted(rows.column("id").to_pylist()) == list(range(EVENTS))
    assert set(rows.column("text").to_pylist()) == {"grüße"}


@EVERY
def test_every_program_says_what_is_refused_and_stops(client, server, tmp_path):
    needs(client)
    proxy = Proxy(server.http_port)
    process = client.start(tmp_path, proxy.url, server.token, b'{"id":1}\n{broken\n')
    said = process.communicate(timeout=120)[0].decode(errors="replace")
    assert process.returncode != 0 and "invalid_json" in said, said
    # The first is 503, the second is lost.
    assert len(proxy.seen) == 3, said


def test_configurations_are_what_their_programs_read():
    for path in SNIPPETS.glob("*.json"):
        config = json.loads(path.read_text())["config"]
        assert all(isinstance(value, str) for value in config.values()), path
