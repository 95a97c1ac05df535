"""A migration that the running release could not live with is refused, unless it says which release made it safe."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tools.topology import ROOT

SQUAWK: Final = Path(sys.executable).with_name("squawk")
MIGRATIONS: Final = sorted(ROOT.glob("services/*/migrations/versions/*.sql"))
SAFE: Final = re.compile(r"-- Safe since \d+\.\d+\.\d+\b.*")


def refusals(folder: Path, sql: str) -> set[str]:
    """Returns the rules that a migration breaks, by the settings of this repository."""
    path = folder / "migration.sql"
    path.write_text(sql)
    command = [str(SQUAWK), f"--config={ROOT / '.squawk.toml'}", "--reporter=gcc", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return set(re.findall(r": (?:warning|error): (\S+)", said.stdout))


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("ALTER TABLE users DROP COLUMN email", "ban-drop-column"),
        ("ALTER TABLE users RENAME COLUMN email TO mail", "renaming-column"),
        ("ALTER TABLE users RENAME TO people", "renaming-table"),
        ("DROP TABLE users", "ban-drop-table"),
        ("DROP FUNCTION count_live(text, text, bigint)", "ban-drop-function"),
        ("ALTER TABLE users ADD COLUMN nickname text NOT NULL", "adding-required-field"),
        ("ALTER TABLE users ALTER COLUMN email SET NOT NULL", "adding-not-nullable-field"),
        ("ALTER TABLE users ALTER COLUMN email TYPE bigint", "changing-column-type"),
        ("ALTER TABLE users ADD COLUMN seen timestamptz DEFAULT clock_timestamp()", "adding-field-with-default"),
        ("CREATE INDEX ix_users_email ON users (email)", "require-concurrent-index-creation"),
        ("ALTER TABLE users ADD CONSTRAINT uq_users_email UNIQUE (email)", "disallowed-unique-constraint"),
        ("ALTER TABLE users ADD CONSTRAINT ck_users_email CHECK (email <> '')", "constraint-missing-not-valid"),
    ],
)
def test_what_the_running_release_cannot_live_with_is_refused(tmp_path: Path, sql: str, rule: str) -> None:
    assert rule in refusals(tmp_path, f"{sql};\n")
    excused = f"-- Safe since 0.2.0, which no longer reads it.\n-- squawk-ignore {rule}\n{sql};\n"
    assert rule not in refusals(tmp_path, excused)


def test_what_only_adds_is_not(tmp_path: Path) -> None:
    additions = """
        ALTER TABLE users ADD COLUMN nickname text;
        ALTER TABLE users ADD COLUMN visits bigint NOT NULL DEFAULT 0;
        CREATE TABLE visits (id uuid PRIMARY KEY, place text NOT NULL);
        CREATE INDEX ix_visits_place ON visits (place);
        GRANT SELECT ON visits TO users_app;
    """
    assert refusals(tmp_path, additions) == set()


@pytest.mark.parametrize("path", MIGRATIONS, ids=[f"{path.parts[-4]}-{path.stem}" for path in MIGRATIONS])
def test_an_exception_names_the_release_that_made_it_safe(path: Path) -> None:
    lines = path.read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if "squawk-" in line:
            assert re.fullmatch(r"-- squawk-ignore [a-z-]+", line), f"{line}: one rule, for the statement that follows"
            assert SAFE.fullmatch(before), f"{line}: the line before says `-- Safe since <release>, …`"
