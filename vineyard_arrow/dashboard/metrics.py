"""The figures of a store as Prometheus reads them: its text format, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterator

from ..ipc import protocol as p

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "vineyard_arrow_"


def metrics(s: p.Status) -> str:
    """All figures of ``s``, each with what it means and its type."""
    lines = []
    for name, kind, text, value in _figures(s):
        name = PREFIX + name
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]
    info = {"version": s.version, "instance_number": f"{s.instance:06x}", "pages": s.page_kind}
    labels = ",".join(f'{key}="{escaped(value)}"' for key, value in info.items())
    name = PREFIX + "build_info"
    lines += [f"# HELP {name} The daemon, always 1.", f"# TYPE {name} gauge"]
    return "\n".join([*lines, f"{name}{{{labels}}} 1", ""])


def escaped(text: str) -> str:
    """``text`` as the value of a label.

    Examples
    --------
    >>> print(escaped('a "b"'))
    a \\"b\\"
    """
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _figures(s: p.Status) -> Iterator[tuple[str, str, str, float]]:
    gauge, counter = "gauge", "counter"
    yield "memory_limit_bytes", gauge, "Most memory that data may take.", s.memory_limit
    yield "memory_used_bytes", gauge, "Memory of objects and of what is written.", s.memory_used
    yield "memory_committed_bytes", gauge, "Pages in memory.", s.memory_committed
    yield "memory_promised_bytes", gauge, "Memory promised to writers.", s.memory_charged
    yield "memory_warm_bytes", gauge, "Free memory kept for the next put.", s.memory_warm
    yield "metadata_bytes", gauge, "Memory of metadata.", s.metadata_used
    yield "objects", gauge, "Objects in the store.", s.objects
    yield "deleted_objects", gauge, "Objects deleted and still read.", s.deleted_pinned
    yield "names", gauge, "Names of objects.", s.names
    yield "clients", gauge, "Attached clients.", len(s.clients)
    yield "pins", gauge, "Holds of clients on objects.", sum(c.pins for c in s.clients)
    yield "segments", gauge, "Files of shared memory.", len(s.segments)
    yield "blocks", gauge, "Blocks of shared memory.", s.blocks
    yield "blocks_bytes", gauge, "Memory of blocks.", s.block_nbytes
    yield "streams", gauge, "Streams.", s.streams
    yield "stream_batches", gauge, "Batches of streams in the store.", s.stream_batches
    yield "stream_bytes", gauge, "Memory of batches of streams.", s.stream_nbytes
    yield "puts_total", counter, "Objects put.", s.puts
    yield "put_copied_bytes_total", counter, "Bytes that puts copied.", s.copied
    yield "put_gathered_bytes_total", counter, "Bytes that puts gathered.", s.gathered
    yield "put_shared_bytes_total", counter, "Bytes that puts took as they lay.", s.shared
    yield "uptime_seconds", gauge, "Time since the daemon started.", round(s.uptime_s, 3)
    yield "cluster_instances", gauge, "Instances of the cluster.", s.cluster_instances
    yield "cluster_fenced", gauge, "1 if the cluster counted this instance out.", int(s.fenced)
    text = "Time for which the metadata of the cluster was not reached."
    yield "cluster_unreached_seconds", gauge, text, round(s.unavailable_s or 0.0, 3)
