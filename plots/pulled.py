"""The file of pulled runs: Parquet, one row per W&B run."""

import io
import json
from collections.abc import Iterable
from pathlib import Path

from plots.logged import LoggedRun
from train.run import write_atomically

WORDS = ("id", "name", "state", "group", "sweep", "stamp")
# What has no fixed columns is kept as JSON.
FREE = ("config", "summary", "history")


def read_pulled(path: Path) -> dict[str, LoggedRun]:
    """The runs of a file by id; none where there is no file or it is damaged, so that they are pulled again."""
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException):
        return {}
    return {
        row["id"]: LoggedRun(**{key: row[key] for key in WORDS}, tags=tuple(row["tags"]), **{key: json.loads(row[key]) for key in FREE})
        for row in rows
    }


def write_pulled(path: Path, runs: Iterable[LoggedRun]) -> None:
    """Writes the file, whole; RunError where it cannot be written."""
    import pyarrow
    from pyarrow import parquet

    rows = [
        {key: getattr(run, key) for key in WORDS} | {"tags": list(run.tags)} | {key: json.dumps(getattr(run, key)) for key in FREE}
        for run in runs
    ]
    schema = pyarrow.schema([(key, pyarrow.string()) for key in (*WORDS, *FREE)] + [("tags", pyarrow.list_(pyarrow.string()))])
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), buffer, compression="zstd")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
