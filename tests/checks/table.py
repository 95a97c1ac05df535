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
    _lines: list[tuple[str, str, str]] = field(default_factory=list)

    @contextmanager
    def line(self, name: str) -> Iterator[list[str]]:
        """Adds a line for what the block does; the block appends what it saw. One that fails keeps no other back."""
        seen: list[str] = []
        started = time.monotonic()
        try:
            yield seen
            result = "ok"
        except Exception as error:  # noqa: BLE001 - the table tells all of them
            result = "FAILED"
            seen.append(f"{type(error).__name__}: {error}".splitlines()[0][:200])
        self._lines.append((result, name, "; ".join(seen)))
        took = f"{time.monotonic() - started:.0f} s"
        print(f"{result:<7} {name} ({took}) {'; '.join(seen)}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Prints the table.

        Raises:
            SystemExit: a line failed, or there is none.
        """
        width = max((len(name) for _, name, _ in self._lines), default=0)
        print(f"\n{self.title}\n")
        for result, name, seen in self._lines:
            print(f"{result:<7} {name:<{width}}  {seen}")
        if not self._lines or any(result != "ok" for result, _, _ in self._lines):
            raise SystemExit(1)
