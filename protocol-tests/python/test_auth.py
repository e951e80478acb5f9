"""Tokens as tools and engines send them: kcat, curl, PyIceberg, DuckDB."""

import json
import subprocess

import pyarrow as pa
import pytest
from pyiceberg.exceptions import ForbiddenError, OAuthError, RESTError, UnauthorizedError

from conftest import eventually

ROW = b'{"id":1,"name":"ada"}'


@pytest.fixture
def guarded(floe):
    """A server that needs tokens, with a row in `streams.orders`."""
    floe.make_token("admin")
    floe.post("/api/v1/topics/orders/events", ROW)
    floe.flush("orders")
    return floe


def kcat(floe, token, *arguments, data=None):
    sasl = ["security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN", "sasl.username=shop"]
    flags = [part for one in [*sasl, f"sasl.password={token}"] for part in ("-X", one)]
    command = ["kcat", "-b", floe.bootstrap, *flags, *arguments]
    return subprocess.run(command, input=data, capture_output=True, timeout=60)


@pytest.mark.compat("SASL/PLAIN: a token writes and reads what it may; a wrong one is told", client="kcat")
def test_kcat_writes_and_reads_with_a_token(guarded):
    shop = guarded.make_token("shop", "write:topic:orders", "read:topic:orders")
    sent = kcat(guarded, shop, "-t", "orders", "-P", data=b'{"id":2}\n')
    assert sent.returncode == 0, sent.stderr.decode()
    back = kcat(guarded, shop, "-t", "orders", "-C", "-e", "-q", "-o", "beginning")
    assert sorted(back.stdout.splitlines()) == [ROW, b'{"id":2}'], back.stderr.decode()

    def is_told():
        wrong = kcat(guarded, "wrong", "-L", "-m", "5")
        assert wrong.returncode != 0, wrong.stdout.decode()
        return b"Authentication failed" in wrong.stderr

    eventually(is_told)


@pytest.mark.compat("a token in each header, and client credentials for an access token", client="curl")
def test_curl_sends_a_token_in_every_form(guarded):
    shop = guarded.make_token("shop", "write:topic:orders")

    def curl(*arguments):
        run = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    url = f"{guarded.url}/api/v1/topics/orders/events"
    granted = curl(f"{guarded.url}/oauth/token", "-u", f"shop:{shop}", "-d", "grant_type=client_credentials")
    for flags in [
        ("-H", f"token: {shop}"),
        ("-H", f"Authorization: Bearer {shop}"),
        ("-u", f"token:{shop}"),
        ("-H", f"X-API-Key: {shop}"),
        ("-H", f"Authorization: {granted['token_type']} {granted['access_token']}"),
    ]:
        assert curl(url, *flags, "-d", '{"id": 3}')["accepted"] == 1, flags
    assert curl(url, "-d", '{"id": 3}')["code"] == "missing_token"


@pytest.mark.compat("a token, or client credentials, within its rules", client="pyiceberg")
def test_pyiceberg_reads_and_writes_what_its_token_may(guarded):
    reader = guarded.make_token("reader", "read:table:streams.orders")
    for options in [{"token": reader}, {"credential": f"reader:{reader}"}]:
        catalog = guarded.catalog(**options)
        assert catalog.list_namespaces() == [("streams",)]
        table = catalog.load_table("streams.orders")
        assert table.scan().to_arrow().column("id").to_pylist() == [1]
        with pytest.raises(ForbiddenError):
            table.append(pa.table({"id": pa.array([9], pa.int64())}))
        with pytest.raises(ForbiddenError):
            catalog.load_table("streams.other")
    with pytest.raises(UnauthorizedError):
        guarded.catalog(token="wrong").list_namespaces()
    with pytest.raises((OAuthError, UnauthorizedError, RESTError)):
        guarded.catalog(credential="reader:wrong").list_namespaces()
    writer = guarded.make_token("writer", "write:table:streams.*", "create:table:mine.*")
    catalog = guarded.catalog(token=writer)
    catalog.load_table("streams.orders").append(pa.table({"id": pa.array([9], pa.int64())}))
    catalog.create_namespace("mine")
    catalog.create_table("mine.t", schema=pa.schema([("id", pa.int64())]))


@pytest.mark.compat("reads with a token, and with client credentials", client="duckdb")
def test_duckdb_reads_with_a_token(guarded):
    reader = guarded.make_token("reader", "read:table:streams.orders")
    secrets = [
        f"TOKEN '{reader}'",
        f"CLIENT_ID 'reader', CLIENT_SECRET '{reader}', OAUTH2_SERVER_URI '{guarded.url}/oauth/token'",
    ]
    for secret in secrets:
        connection = guarded.duckdb(secret)
        assert connection.execute("select id, name from f.streams.orders").fetchall() == [(1, "ada")]
