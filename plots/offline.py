"""W&B's own files of runs that were recorded offline: a `.wandb` file is a log of protocol buffers in LevelDB's format.

The client has no public way to read them; their format is that of LevelDB's log (https://github.com/google/leveldb/blob/main/doc/log_format.md)
with a header of 7 bytes and zlib's CRC-32 of type and data.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from errors import InputError
from plots.logged import LoggedRun

BLOCK = 32_768  # bytes
HEADER, RECORD = struct.Struct("<4sHB"), struct.Struct("<IHB")
MAGIC = (b":W&B", 0xBEE1, 0)
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def wandb_files(path: Path) -> list[Path]:
    """The W&B files that a path is or holds, at any depth; those of one run by the time in their folders' names."""
    if path.is_file():
        return [path] if path.suffix == ".wandb" else []
    return sorted(path.rglob("*.wandb"), key=lambda file: (file.parent.name, file.name))


def read_files(files: list[Path]) -> list[LoggedRun]:
    """The runs of W&B files; one that was recorded in several (stopped and gone on with) is put together from all.

    InputError where a file is not a W&B file or damaged before its end; a torn end, of a killed process, is left out.
    """
    runs: dict[str, LoggedRun] = {}
    for file in files:
        run = read_file(file)
        before = runs.get(run.id)
        if before is not None:
            steps = {row["_step"]: row for row in (*before.history, *run.history)}
            run = replace(
                run, config={**before.config, **run.config}, summary={**before.summary, **run.summary},
                history=tuple(steps[step] for step in sorted(steps)),
            )  # fmt: skip
        runs[run.id] = run
    return list(runs.values())


def read_file(path: Path) -> LoggedRun:
    """The run of one W&B file."""
    from wandb.proto import wandb_internal_pb2

    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    run, history, state = None, [], "running"
    for data in entries(path):
        record = wandb_internal_pb2.Record.FromString(data)  # type: ignore[attr-defined]
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            update(config, run.config)
        elif kind == "config":
            update(config, record.config)
        elif kind == "summary":
            update(summary, record.summary)
        elif kind == "history":
            row: dict[str, Any] = {"_step": record.history.step.num}
            set_items(row, record.history.item)
            history.append(row)
        elif kind == "exit":
            state = "finished" if record.exit.exit_code == 0 else "failed"
    if run is None:
        raise InputError(f"{path}: no run in this W&B file; nothing was recorded before the process ended")
    return LoggedRun(
        run.run_id, run.display_name, state, run.run_group, run.sweep_id, tuple(run.tags), config, summary, tuple(history), str(path)
    )  # fmt: skip


def update(values: dict[str, Any], record: Any) -> None:
    """Applies an update of a config or a summary: what is set, and what is taken away."""
    set_items(values, record.update)
    for item in record.remove:
        values.pop(item.key, None)


def set_items(values: dict[str, Any], items: Any) -> None:
    """Sets what a record's items say; an item of several keys lies that deep."""
    for item in items:
        *outer, last = list(item.nested_key) or [item.key]
        place = values
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)


def entries(path: Path) -> Iterator[bytes]:
    """The whole entries of a W&B file, in order; InputError where it is none or is damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) < HEADER.size or HEADER.unpack_from(data) != MAGIC:
        raise InputError(f"{path}: no W&B file (its first bytes are not those of one)")
    place, whole = HEADER.size, b""
    while place + RECORD.size <= len(data):
        left = BLOCK - place % BLOCK
        if left < RECORD.size:
            place += left  # the end of a block is zeros where no header fits
            continue
        checksum, length, kind = RECORD.unpack_from(data, place)
        chunk = data[place + RECORD.size : place + RECORD.size + length]
        if (checksum, length, kind) == (0, 0, 0) or len(chunk) < length:
            return
        if zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum:
            raise InputError(f"{path}: damaged at byte {place}; sync the run from its directory instead: python -m train sync CONFIG")
        place += RECORD.size + length
        whole = chunk if kind in (FULL, FIRST) else whole + chunk
        if kind in (FULL, LAST):
            yield whole
