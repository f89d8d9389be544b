"""Parquet files as rows.

Values stay as they are, lists and objects included; what they mean is the business of `formats`. A damaged file is lost from
there on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kosent import extras
from kosent.finetune.containers import Container, Row
from kosent.finetune.records import BrokenRow

_BATCH = 1000


class Parquet(Container):
    """A Parquet file."""

    kind = "Parquet"
    nested = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        extras.require("prepare", what=f"reading {path.name}, which is Parquet,")
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                self.names = list(file.schema_arrow.names)
        except (pyarrow.ArrowException, OSError) as error:
            first = str(error).partition("\n")[0]
            raise self._bad(f"it begins like Parquet but is cut off or damaged: {first}", hint="download it again") from error

    def rows(self) -> Iterator[Row | BrokenRow]:
        import pyarrow
        import pyarrow.parquet

        number = 0
        with pyarrow.parquet.ParquetFile(self.path) as file:
            total = max(file.metadata.num_rows, 1)
            try:
                for batch in file.iter_batches(batch_size=_BATCH):
                    for values in batch.to_pylist():
                        number += 1
                        self.position = min(self.size, self.size * number // total)
                        yield number, values
            except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
                first = str(error).partition("\n")[0]
                yield self.broken(number + 1, f"the file is damaged here ({first}); the rest of it is lost", rest_lost=True)
        self.position = self.size
