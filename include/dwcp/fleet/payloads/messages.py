"""Metadata and small messages: state in JSON, protocol buffers and text formats whose counters and times move on."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from dwcp.fleet import corpus
from dwcp.fleet.payloads.objects import Maker, Spec

_EPOCH = 1_700_000_000
Entry = dict[str, Any]


def _words(rng: random.Random) -> list[str]:
    return [w for w in corpus.take("text", 20_000, rng).decode("latin-1").split() if w.isalpha()] or ["item"]


def _entry(rng: random.Random, words: list[str]) -> Entry:
    return {
        "id": rng.randbytes(6).hex(),
        "name": f"{rng.choice(words)}-{rng.choice(words)}",
        "state": rng.choice(["running", "paused", "migrating"]),
        "cpu": round(rng.random(), 4),
        "updated_at": _EPOCH + rng.randrange(10**6),
    }


def _json(entries: list[Entry], serial: int) -> bytes:
    return json.dumps({"serial": serial, "items": entries}, separators=(",", ":")).encode()


def _json_indented(entries: list[Entry], serial: int) -> bytes:
    return json.dumps({"serial": serial, "items": entries}, indent=2).encode()


def _json_lines(entries: list[Entry], _serial: int) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def _yaml(entries: list[Entry], serial: int) -> bytes:
    lines = [f"serial: {serial}", "items:"]
    for entry in entries:
        lines += [f"{'- ' if key == 'id' else '  '}{key}: {value}" for key, value in entry.items()]
    return "\n".join(lines).encode()


def _xml(entries: list[Entry], serial: int) -> bytes:
    from xml.etree import ElementTree

    root = ElementTree.Element("items", serial=str(serial))
    for entry in entries:
        child = ElementTree.SubElement(root, "item", id=entry["id"])
        for key in ("name", "state", "cpu", "updated_at"):
            ElementTree.SubElement(child, key).text = str(entry[key])
    return ElementTree.tostring(root)


def _metrics(entries: list[Entry], _serial: int) -> bytes:
    """Prometheus' text format."""
    lines = [
        f'cpu_ratio{{id="{e["id"]}",name="{e["name"]}",state="{e["state"]}"}} {e["cpu"]} {e["updated_at"]}000\n'
        for e in entries
    ]
    return "".join(lines).encode()


def _line_protocol(entries: list[Entry], serial: int) -> bytes:
    """InfluxDB's."""
    return b"".join(
        f"usage,id={e['id']},state={e['state']} cpu={e['cpu']},serial={serial}i {e['updated_at']}000000000\n".encode()
        for e in entries
    )


def _protobuf(entries: list[Entry], serial: int) -> bytes:
    from google.protobuf.struct_pb2 import ListValue  # type: ignore[import-untyped]

    message = ListValue()
    message.extend([serial, *entries])
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def _arrow_stream(entries: list[Entry], _serial: int) -> bytes:
    import pyarrow as pa

    out = pa.BufferOutputStream()
    table = pa.Table.from_pylist(entries)
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    data: bytes = out.getvalue().to_pybytes()
    return data


def _state(spec: Spec, write: Callable[[list[Entry], int], bytes]) -> Iterator[bytes]:
    """A service's state: of some entries the usage and the time move on."""
    rng = spec.rng()
    words = _words(rng)
    entries = [_entry(rng, words)]
    each = max(1, len(write(entries * 20, 0)) - len(write(entries, 0))) / 19
    entries += [_entry(rng, words) for _ in range(int((spec.size - len(write(entries, 0))) / each))]
    for version in range(spec.versions):
        yield write(entries, version)
        for _ in range(max(1, int(len(entries) * spec.dirty))):
            target = entries[rng.randrange(len(entries))]
            target.update(cpu=round(rng.random(), 4), updated_at=target["updated_at"] + rng.randrange(1, 90))


def _binary(spec: Spec) -> Iterator[bytes]:
    """Tag, length and value: numbers, times and short names."""
    rng = spec.rng()

    def record() -> bytes:
        name = b"node-%d" % rng.randrange(200)
        return struct.pack("<BQBfBB", 8, _EPOCH * 1_000 + rng.randrange(10**8), 21, rng.random(), 26, len(name)) + name

    records = [record()]
    filled = len(records[0])
    while filled < spec.size:
        records.append(record())
        filled += len(records[-1])
    for _ in range(spec.versions):
        yield b"".join(records)
        for _ in range(max(1, int(len(records) * spec.dirty))):
            records[rng.randrange(len(records))] = record()


def _heartbeat(spec: Spec) -> Iterator[bytes]:
    """The least that a node says: its name, the time and some counters; never more than 400 bytes."""
    rng = spec.rng()
    size = min(spec.size, 400)
    name, beats = rng.randbytes(8), rng.randrange(10**6)
    counters = [rng.randrange(2**31) for _ in range(max(1, (size - 24) // 8))]
    for _ in range(spec.versions):
        yield name + struct.pack(f"<QI{len(counters)}Q", _EPOCH + beats, beats & 0xFFFF, *counters)
        beats += 1
        for _ in range(max(1, int(len(counters) * spec.dirty))):
            counters[rng.randrange(len(counters))] += rng.randrange(10_000)


def _collected(spec: Spec, kind: str) -> Iterator[bytes]:
    """Real descriptions (of packages; of settings in JSON), some of them replaced by the next."""
    rng = spec.rng()
    part = max(20, spec.size // 8)
    source = corpus.pieces(kind, rng)
    parts = [next(source)[1][:part] for _ in range(8)]
    while sum(map(len, parts)) < spec.size:
        parts.append(next(source)[1][:part])
    for _ in range(spec.versions):
        yield b"".join(parts)
        for _ in range(max(1, round(len(parts) * spec.dirty))):
            parts[rng.randrange(len(parts))] = next(source)[1][:part]


KINDS: dict[str, Maker] = {
    "json": partial(_state, write=_json),
    "json_indented": partial(_state, write=_json_indented),
    "json_lines": partial(_state, write=_json_lines),
    "yaml": partial(_state, write=_yaml),
    "xml": partial(_state, write=_xml),
    "metrics": partial(_state, write=_metrics),
    "line_protocol": partial(_state, write=_line_protocol),
    "protobuf": partial(_state, write=_protobuf),
    "arrow_stream": partial(_state, write=_arrow_stream),
    "binary": _binary,
    "heartbeat": _heartbeat,
    "packages": partial(_collected, kind="package"),
    "settings": partial(_collected, kind="json"),
}
