"""The OpenAPI document: it is valid, and so is every example in it. And the document against the server, by
Schemathesis: requests that the document allows, and such that it does not. Whatever is sent, an answer has a status,
headers, a content type and a body that the document has, and no 5xx but 503, or 501 where there is nothing."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import openapi_schema_validator
import openapi_spec_validator
import pyarrow as pa
import pytest
import referencing
import referencing.jsonschema
import yaml

from conftest import eventually

HERE = Path(__file__).parent
FUZZER = ("Schemathesis", importlib.metadata.version("schemathesis"))
SECONDS = 60
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"

CONFIG = """\
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503"]

# There are no consumers over HTTP, which is what the answer says.
[[operations]]
include-path = "/consumers/{rest}"
checks.not_a_server_error.expected-statuses = ["4xx", "501"]

"""


def examples_of(value, at=""):
    """(pointer to the schema, example) of all that has both, but schemas themselves."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from examples_of(item, f"{at}/{index}")
    if not isinstance(value, dict):
        return
    if "schema" in value:
        given = [value["example"]] if "example" in value else []
        given += [example["value"] for example in value.get("examples", {}).values()]
        yield from ((f"{at}/schema", example) for example in given)
    for name, item in value.items():
        if name not in ("schema", "schemas", "example", "examples"):
            name = name.replace("~", "~0").replace("/", "~1")
            yield from examples_of(item, f"{at}/{name}")


def test_the_document_and_its_examples_are_valid(floe):
    document = floe.get("/openapi.json")
    openapi_spec_validator.validate(document)
    for name in ("openapi", "openapi3"):
        with urllib.request.urlopen(f"{floe.url}/v1/documentation/{name}.yaml", timeout=60) as answer:
            assert yaml.safe_load(answer) == document
    resource = referencing.jsonschema.DRAFT202012.create_resource(document)
    registry = referencing.Registry().with_resource("urn:floe:openapi", resource)
    wrong, seen = [], 0
    for pointer, example in examples_of(document):
        # In a URI; a path template has braces.
        fragment = urllib.parse.quote(pointer, safe="/~")
        validator = openapi_schema_validator.OAS31Validator(
            {"$ref": f"urn:floe:openapi#{fragment}"},
            registry=registry,
            format_checker=openapi_schema_validator.oas31_format_checker,
        )
        wrong += [f"{pointer}: {error.json_path}: {error.message}" for error in validator.iter_errors(example)]
        seen += 1
    assert not wrong, "\n".join(wrong)
    assert seen > 200, "the test finds the examples"


METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


# Each operation once, however long that takes; then as much as there is time for.
PARTS = (
    ("--phases", "fuzzing", "--max-examples", "1"),
    ("--phases", "examples,coverage,fuzzing", "--max-time", str(SECONDS)),
)
# They answer for as long as somebody reads.
ENDLESS = "/tail$"


def fuzz(floe, directory, config, *flags):
    """Runs Schemathesis, for SECONDS and a bit, with a fixed seed; fails with what it found. Answers with the statuses
    of each operation that was called."""
    called = directory / "called"
    (directory / "schemathesis.toml").write_text(CONFIG + config)
    (directory / "openapi.json").write_text(json.dumps(floe.get("/openapi.json")))
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "--config-file",
        str(directory / "schemathesis.toml"),
        "run",
        str(directory / "openapi.json"),
        "--url",
        floe.url,
        "--header",
        f"token: {floe.token}",
        "--checks",
        CHECKS,
        "--seed",
        "1",
        "--continue-on-failure",
        "--request-timeout",
        "90",
        # It would blame the machine.
        "--suppress-health-check",
        "too_slow",
        "--warnings",
        "off",
        "--no-color",
        *flags,
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "openapi.hooks", "PYTHONPATH": str(HERE), "FLOE_CALLED": str(called)}
    for part in PARTS:
        whole = [*command, *part]
        ran = subprocess.run(whole, cwd=directory, env=environment, capture_output=True, text=True, timeout=10 * SECONDS)
        assert ran.returncode == 0, ran.stdout[-12_000:] + ran.stderr[-2_000:]
        eventually(floe.is_ready)
        assert "panicked" not in floe.said(), floe.tail()
    statuses = {}
    for line in called.read_text().splitlines():
        operation, status = line.rsplit(" ", 1)
        statuses.setdefault(operation, set()).add(int(status))
    return statuses


def operations(floe):
    """All operations of the document that end, as Schemathesis names them."""
    paths = floe.get("/openapi.json")["paths"].items()
    ending = ((path, item) for path, item in paths if not re.search(ENDLESS, path))
    return {f"{method.upper()} {path}" for path, item in ending for method in METHODS if method in item}


@pytest.mark.compat("the OpenAPI document against the server: any names", client=FUZZER)
def test_any_request_has_an_answer_that_the_document_has(floe, tmp_path):
    floe.make_token("admin")
    called = fuzz(floe, tmp_path, "", "--exclude-path-regex", ENDLESS)
    assert sorted(operations(floe) - called.keys()) == [], "never called"


def made_things(floe):
    """Makes one of everything. Answers with the names that requests find it by: for all routes, and by route."""
    floe.post_json("/api/v1/topics", {"name": "orders"})
    floe.post_json("/api/v1/streams", {"name": "shop", "namespace": "prod"})
    hook = floe.post_json("/api/v1/webhooks", {"name": "forms", "topic": "forms", "scheme": "url"})
    floe.put_json("/api/v1/sources/traces", {"topic": "traces", "type": "otlp"})
    # Its topic is that of the same name.
    made = floe.post_json("/v1/branches/default/sources", {"type": "http", "name": "orders"})
    secret = floe.get("/api/v1/sources/orders")["path"].rsplit("/", 1)[1]
    price = {"type": "path", "name": "price", "path": "price", "defaultValue": None, "dataType": "double"}
    floe.put_json("/api/v1/topics/orders/sinks/prices", {"table": {"name": "prices"}, "mapping": {"columns": [price]}})
    floe.post("/api/v1/topics/orders/events", b'{"id": 1}', {"x-channel": "loader", "x-offset-token": "1"})
    sent = floe.post("/api/v1/topics/orders/events?ack=committed&wait=0", b'{"id": 1}')
    catalog = floe.catalog()
    catalog.create_namespace("events")
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), ("item", pa.string())])
    catalog.create_table("events.sales", schema=schema)
    names = {
        "path.topic": "orders",
        "path.partition": "0",
        "path.channel": "loader",
        "path.cluster": floe.get("/v3/clusters")["data"][0]["cluster_id"],
        "path.namespace": "prod",
        "path.stream": "shop",
        "path.webhook": "forms",
        "path.table": "streams.orders",
        "path.source": "orders",
        "path.sink": "prices",
        "path.project": "1",
        "path.branch": "default",
        "path.version": "1",
        "path.task": made["taskId"],
        "query.name": "orders",
        "query.table": "floe.events.sales",
        "header.table": "floe.events.sales",
    }
    routes = {
        "/webhooks/{webhook}/{secret}": {"path.secret": hook["secret"]},
        "/sources/{source}/{secret}": {"path.secret": secret},
        "/stream/{project}/{source}/{secret}": {"path.secret": secret},
        "/api/v1/acks/{token}": {"path.token": sent["ack_url"].rsplit("/", 1)[1]},
    }
    otlp = floe.get("/api/v1/sources/traces")["path"].rsplit("/", 1)[1]
    for signal in ("logs", "metrics", "traces"):
        routes[f"/otlp/{{project}}/{{source}}/v1/{signal}"] = {"path.source": "traces"}
        routes[f"/otlp/{{project}}/{{source}}/{{secret}}/v1/{signal}"] = {"path.source": "traces", "path.secret": otlp}
    return names, routes, otlp


def lines_of(names):
    return "".join(f'"{name}" = "{value}"\n' for name, value in names.items())


@pytest.mark.compat("the OpenAPI document against the server: names that are there", client=FUZZER)
def test_so_have_requests_for_what_is_there(floe, tmp_path):
    floe.make_token("admin")
    names, routes, bearer = made_things(floe)
    config = "[parameters]\n" + lines_of(names)
    for path, own in routes.items():
        config += f'[[operations]]\ninclude-path = "{path}"\n[operations.parameters]\n' + lines_of(own)
    # What is there must stay there.
    kept = "/(rotate|rotate-secret|terminate)$"
    # The secret of a source of type otlp; all else looks at the header `token` first.
    header = f"Authorization: Bearer {bearer}"
    left_out = f"{kept}|{ENDLESS}"
    called = fuzz(floe, tmp_path, config, "--header", header, "--exclude-method", "DELETE", "--exclude-path-regex", left_out)
    wanted = {it for it in operations(floe) if not it.startswith("DELETE ") and not re.search(kept, it)}
    assert sorted(wanted - called.keys()) == [], "never called"
    # Without its secret a route is only ever told that it is wrong.
    by_secret = [it for it in wanted if "{secret}" in it or "/{source}/v1/" in it]
    assert len(by_secret) == 13
    assert [it for it in by_secret if not called[it] & {200, 202}] == []
