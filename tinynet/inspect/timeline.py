"""A profile's spans as a file of Chrome's Trace Event Format: Perfetto and chrome://tracing draw it as a timeline."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from tinynet.typing import FilePath


def save_timeline(spans: list[Any], path: FilePath) -> None:
    """Write the spans, of one thread, as "complete" events: start and duration in microseconds, one within another."""
    where = {"pid": os.getpid(), "tid": threading.get_native_id()}
    began = min(span.start for span in spans)
    events = [{"name": f"{kind}_name", "ph": "M", "ts": 0, **where, "args": {"name": name}}
              for kind, name in (("process", "tinynet"), ("thread", "the thread of the profile"))]
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        events.append({"name": span.name, "cat": span.kind, "ph": "X", "ts": (span.start - began) / 1000,
                       "dur": (span.end - span.start) / 1000, **where, "args": _arguments(span)})
    text = json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
    Path(path).write_text(text, encoding="utf-8")


def _arguments(span):
    """What a click on the span shows."""
    owner = span.place if span.account is None else span.account.place
    layer = f"{owner.path} {owner.kind}".strip()
    return {**({"layer": layer} if layer else {}), "own ms": span.own / 1e6, **span.notes}
