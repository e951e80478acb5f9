"""The record batches of a partition as they lie in the log, without any client: one plain Fetch (version 4)."""

import socket
import struct

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def text(content):
    return struct.pack(">h", len(content)) + content.encode()


def fetch(bootstrap, topic, partition):
    """Codec and producer id of every batch, from offset 0."""
    host, port = bootstrap.split(":")
    header = struct.pack(">hhi", 1, 4, 7) + text("batches")
    body = struct.pack(">iiiibi", -1, 100, 1, 50 << 20, 0, 1) + text(topic)
    body += struct.pack(">iiqi", 1, partition, 0, 50 << 20)
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(struct.pack(">i", len(header + body)) + header + body)
        stream = connection.makefile("rb")
        (size,) = struct.unpack(">i", stream.read(4))
        answer = stream.read(size)
    # Correlation id, throttle time, one topic with its name, one partition with five numbers, no aborted transactions.
    at = 4 + 4 + 4 + 2 + len(topic) + 4
    _, error, high, _, aborted = struct.unpack_from(">ihqqi", answer, at)
    assert error == 0 and aborted <= 0 and high > 0, (error, aborted, high)
    at += 4 + 2 + 8 + 8 + 4
    (length,) = struct.unpack_from(">i", answer, at)
    records = answer[at + 4 : at + 4 + length]
    found, at = [], 0
    while at < len(records):
        (size,) = struct.unpack_from(">i", records, at + 8)
        (attributes,) = struct.unpack_from(">h", records, at + 21)
        (producer,) = struct.unpack_from(">q", records, at + 43)
        found.append((CODECS[attributes & 7], producer))
        at += 12 + size
    return found
