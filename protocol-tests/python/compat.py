"""Collects what a run found and writes docs/compatibility.md from it (`--write-docs`).

A test that belongs in the table has the marker `compat(what)`. Client and version come from its parameter
`client`, or from the marker: (title, version), a Python package or a tool. `compat_note(text)` tells the result in other words than "works".
"""

import importlib.metadata
import os
import re
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
PACKAGES = {"pyiceberg": "PyIceberg", "duckdb": "DuckDB", "polars": "Polars"}
HEAD = """\
# Compatibility

Written by `protocol-tests/run --write-docs`: every line is a test that ran against the real binary, floe {version}.
"not run" names what the machine of that run lacked.

- *Every codec, byte by byte*: records with keys, headers, null and empty keys, values and headers, binary and 64 KiB values,
  on three partitions, once with and once without idempotence where the client has it. The batches in the log have the codec
  that was asked for; what the client reads back and what stands in the table is what was sent, each record once, in order.
- *Consumer groups* and *transactions* are not there yet: the line gives the error that the client shows, within a minute.

| Client or engine | Version | What was done | Result |
| --- | --- | --- | --- |
"""


class Rows:
    def __init__(self):
        self.rows = {}

    def add(self, item, report):
        marker = item.get_closest_marker("compat")
        client = getattr(item, "callspec", None) and item.callspec.params.get("client")
        title, version = (client.title, client.version) if client else named(marker.kwargs["client"])
        self.rows[item.nodeid] = (title, version, marker.args[0], result_of(item, report))

    def write(self):
        version = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True)
        text = HEAD.format(version=version.stdout.split()[-1])
        # Lines of one client stand together, clients in the order of the run.
        order = list(dict.fromkeys(row[:2] for row in self.rows.values()))
        for row in sorted(self.rows.values(), key=lambda row: order.index(row[:2])):
            text += "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |\n"
        PAGE.write_text(text)


def binary():
    return os.environ["FLOE_BIN"]


def named(client):
    """(title, version) of a marker: a Python package by its name, a tool by the first number it prints."""
    if not isinstance(client, str):
        return client
    if client in PACKAGES:
        return PACKAGES[client], importlib.metadata.version(client)
    printed = subprocess.run([client, "-V"], capture_output=True, text=True)
    return client, re.search(r"\d+\.\d+[.\d]*", printed.stdout + printed.stderr).group()


def result_of(item, report):
    if report.skipped and hasattr(report, "wasxfail"):
        return f"does not work yet: {report.wasxfail}"
    if report.skipped:
        return f"not run: {report.longrepr[2].removeprefix('Skipped: ')}"
    notes = [text for name, text in item.user_properties if name == "compat"]
    if report.failed:
        return ": ".join(["**fails**", *notes])
    return "; ".join(notes) or "works"


def pytest_addoption(parser):
    parser.addoption("--write-docs", action="store_true", help="write docs/compatibility.md from this run")


def pytest_configure(config):
    config.addinivalue_line("markers", "compat(what, client=(title, version)): a line of docs/compatibility.md")
    config.compat_rows = Rows()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    decided = report.when == "call" or (report.when == "setup" and not report.passed)
    if decided and item.get_closest_marker("compat"):
        item.config.compat_rows.add(item, report)


def pytest_sessionfinish(session):
    if session.config.getoption("--write-docs"):
        session.config.compat_rows.write()


@pytest.fixture
def compat_note(request):
    return lambda text: request.node.user_properties.append(("compat", text))
