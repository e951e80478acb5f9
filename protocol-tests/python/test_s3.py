"""A warehouse on an S3 server: the tables' files lie there, engines read them through it."""

import json
import os
import subprocess
import sys
import time
import urllib.request

import pytest

from conftest import free_port


@pytest.fixture
def s3(tmp_path):
    port = free_port()
    environment = dict(os.environ, MOTO_PORT=str(port))
    with open(tmp_path / "s3.log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=log,
            env=environment,
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while True:
        try:
            request = urllib.request.Request(f"{url}/warehouse", method="PUT")
            urllib.request.urlopen(request, timeout=5)
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, "no S3 server"
            time.sleep(0.1)
    yield url
    server.kill()
    server.wait()


def test_tables_on_s3_are_read_by_pyiceberg(floe_factory, s3):
    access = {
        "s3.endpoint": s3,
        "s3.region": "us-east-1",
        "s3.access-key-id": "floe",
        "s3.secret-access-key": "floe-secret",
        "s3.path-style-access": "true",
    }
    flags = ["--catalog-warehouse", "s3://warehouse/floe"]
    for key, value in access.items():
        flags += ["--set", f"{key}={value}", "--set", f"catalog.client.{key}={value}"]
    floe = floe_factory(*flags)
    body = "\n".join(json.dumps({"id": i, "name": f"n{i}"}) for i in range(100)).encode()
    floe.post("/api/v1/topics/clouds/events", body, {"content-type": "application/x-ndjson"})
    floe.flush("clouds")
    table = floe.catalog().load_table("streams.clouds")
    assert table.location().startswith("s3://warehouse/floe/")
    assert sorted(table.scan().to_arrow().column("id").to_pylist()) == list(range(100))
    floe.kill()
    floe.start()
    floe.post("/api/v1/topics/clouds/events", b'{"id": 100}')
    floe.flush("clouds")
    assert floe.rows("streams.clouds").num_rows == 101
