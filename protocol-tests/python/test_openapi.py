"""The OpenAPI document: it is valid, and so is every example in it. And the document against the server, by Schemathesis:
requests that the document allows, and such that it does not. Whatever is sent, an answer has a status, headers, a content
type and a body that the document has, and no 5xx but 503, or 501 where there is nothing."""

import importlib.metadata
import json
import os
import subprocess
import sys
import urllib.parse
from pathlib import Path

import openapi_schema_validator
import openapi_spec_validator
import pyarrow as pa
import pytest
import referencing
import referencing.jsonschema

HERE = Path(__file__).parent
FUZZER = ("Schemathesis", importlib.metadata.version("schemathesis"))
VALIDATOR = ("openapi-spec-validator", importlib.metadata.version("openapi-spec-validator"))
SECONDS = 35
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


@pytest.mark.compat("the OpenAPI document: valid, with its examples", client=VALIDATOR)
def test_the_document_and_its_examples_are_valid(floe):
    document = floe.get("/openapi.json")
    openapi_spec_validator.validate(document)
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


def fuzz(floe, directory, config, *flags):
    """Runs Schemathesis for SECONDS with a fixed seed; fails with what it found."""
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
        "--phases",
        "examples,coverage,fuzzing",
        "--seed",
        "1",
        "--max-time",
        str(SECONDS),
        "--continue-on-failure",
        "--request-timeout",
        "30",
        "--warnings",
        "off",
        "--no-color",
        *flags,
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "openapi.hooks", "PYTHONPATH": str(HERE)}
    ran = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=4 * SECONDS)
    assert ran.returncode == 0, ran.stdout[-12_000:] + ran.stderr[-2_000:]
    assert floe.is_ready() and "panicked" not in floe.tail(), floe.tail()


@pytest.mark.compat("the OpenAPI document against the server: any names", client=FUZZER)
def test_any_request_has_an_answer_that_the_document_has(floe, tmp_path):
    floe.make_token("admin")
    fuzz(floe, tmp_path, "")


@pytest.mark.compat("the OpenAPI document against the server: names that are there", client=FUZZER)
def test_so_have_requests_for_what_is_there(floe, tmp_path):
    floe.make_token("admin")
    floe.post_json("/api/v1/topics", {"name": "orders"})
    floe.post_json("/api/v1/streams", {"name": "shop", "namespace": "prod"})
    hook = floe.post_json("/api/v1/webhooks", {"name": "forms", "topic": "forms", "scheme": "url"})
    cluster = floe.get("/v3/clusters")["data"][0]["cluster_id"]
    catalog = floe.catalog()
    catalog.create_namespace("events")
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), ("item", pa.string())])
    catalog.create_table("events.sales", schema=schema)
    names = {
        "path.topic": "orders",
        "path.cluster": cluster,
        "path.namespace": "prod",
        "path.stream": "shop",
        "path.webhook": "forms",
        "path.secret": hook["secret"],
        "path.table": "streams.orders",
        "query.table": "floe.events.sales",
        "header.table": "floe.events.sales",
    }
    config = "[parameters]\n" + "".join(f'"{name}" = "{value}"\n' for name, value in names.items())
    # What is there must stay there.
    fuzz(floe, tmp_path, config, "--exclude-method", "DELETE", "--exclude-path-regex", "/(rotate|terminate)$")
