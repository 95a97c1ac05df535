"""The table that a check prints at its end: a line for each thing that it looked at."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Table:
    """What a check has found so far."""

    title: str
    _lines: list[tuple[str, ...]] = field(default_factory=list)

    @contextmanager
    def line(self, name: str, expected: str = "") -> Iterator[list[str]]:
        """Adds a line for what the block does; the block appends what it saw. One that fails keeps no other back."""
        seen: list[str] = []
        started = time.monotonic()
        try:
            yield seen
            result = "ok"
        except Exception as error:  # noqa: BLE001 - the table tells all of them
            result = "FAILED"
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            seen.append(" ".join(f"{type(error).__name__}: {error}".split())[:300])
        took = f"{time.monotonic() - started:.0f} s"
        self._lines.append((result, name, expected, "; ".join(seen), took))
        print(f"{result:<7} {name} ({took}) {'; '.join(seen)}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Prints the table.

        Raises:
            SystemExit: a line failed, or there is none.
        """
        print(f"\n{self.title}\n")
        rows = [("", "step", "expected", "seen", "time"), *self._lines]
        kept = [column for column in zip(*rows, strict=True) if any(column[1:])]
        widths = [max(map(len, column)) for column in kept]
        for row in zip(*kept, strict=True):
            print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
        if not self._lines or any(result != "ok" for result, *_ in self._lines):
            raise SystemExit(1)
