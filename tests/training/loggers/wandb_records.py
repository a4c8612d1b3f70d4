"""What W&B's offline files hold."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

from qat.training.loggers.wandb_file import records


def records_of(folder: Path) -> dict[str, list[Any]]:
    """Records of all offline runs in a folder by their type."""
    found = defaultdict(list)
    for path in sorted(folder.rglob("*.wandb")):
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            found[kind].append(getattr(record, kind))
    return found


def values_of(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
