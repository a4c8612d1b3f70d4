from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from qat.training.loggers import wandb_file
from qat.training.loggers.wandb_file import BLOCK, MAGIC, framed, make_portable_, records


def test_records_of_every_length_survive_their_frame() -> None:
    """Around the ends of blocks, where a header does not fit or data is cut."""
    generator = random.Random(0)
    lengths = [0, 1, BLOCK - 30, 3, 5, *range(BLOCK - 30, BLOCK + 10), 3 * BLOCK, 7, BLOCK - 7, BLOCK]
    written = [generator.randbytes(length) for length in lengths]
    content = framed(written)
    assert list(records(content)) == written
    assert framed(records(content)) == content


@pytest.mark.parametrize(
    "content",
    [b"", b"something else", MAGIC[:-1] + b"\x01", framed([b"abc"])[:-1], framed([b"abc"]).replace(b"abc", b"abd"), framed([])],
    ids=["empty", "foreign", "version", "cut", "damaged", "not_ended"],
)
def test_file_that_is_not_understood_is_refused_and_left(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_file, "PATIENCE", 0.1)
    path = tmp_path / "wandb" / "offline-run-1" / "run-1.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"W&B file|damaged"):
        make_portable_(tmp_path)
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_file_that_is_still_written_is_waited_for(tmp_path: Path) -> None:
    """Record by record, and none is lost."""
    path = tmp_path / "wandb" / "offline-run-1" / "run-1.wandb"
    path.parent.mkdir(parents=True)
    history = wandb_internal_pb2.Record(history=wandb_internal_pb2.HistoryRecord())  # type: ignore[attr-defined]
    end = wandb_internal_pb2.Record(exit=wandb_internal_pb2.RunExitRecord(exit_code=0))  # type: ignore[attr-defined]
    whole = framed([history.SerializeToString(), end.SerializeToString()])
    path.write_bytes(whole[: len(MAGIC)])

    def append() -> None:
        with path.open("ab") as handle:
            for place in range(len(MAGIC), len(whole)):
                handle.write(whole[place : place + 1])
                handle.flush()
                threading.Event().wait(0.01)

    writer = threading.Thread(target=append)
    writer.start()
    make_portable_(tmp_path)
    writer.join()
    assert path.read_bytes() == whole
