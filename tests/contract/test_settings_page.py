"""The page for platform engineers lists every setting, in the words of its docstring."""

import ast
import re
from typing import Final

from api_common import settings
from pydantic_settings import BaseSettings

from tests.architecture.sources import read
from tests.protos import ROOT

PAGE: Final = ROOT / "docs" / "platform-engineers.md"
HEAD: Final = "| Variable | Default | Meaning |\n|---|---|---|"
PREFIXES: Final = {"ApiKeySettings": "APIKEYS"}
"""Those that are not the name of their class."""


def table() -> str:
    """A row per field of each class of settings, in the order of the module."""
    (source,) = read("libs/api_common/api_common/settings.py")
    rows = [HEAD]
    for node in source.tree.body:
        if not (isinstance(node, ast.ClassDef) and node.name.endswith("Settings") and node.name != "Settings"):
            continue
        concern: type[BaseSettings] = getattr(settings, node.name)
        prefix = PREFIXES.get(node.name, node.name.removesuffix("Settings").upper())
        for declared, explained in zip(node.body, node.body[1:], strict=False):
            if isinstance(declared, ast.AnnAssign) and isinstance(declared.target, ast.Name):
                field = concern.model_fields[declared.target.id]
                assert isinstance(explained, ast.Expr)
                assert isinstance(explained.value, ast.Constant)
                default = "required" if field.is_required() else f"`{field.default}`" if field.default else "off"
                said = " ".join(str(explained.value.value).split())
                rows.append(f"| `<S>_{prefix}_{declared.target.id.upper()}` | {default} | {said} |")
    return "\n".join(rows)


def test_the_table_of_settings_is_the_module() -> None:
    found = re.search(re.escape(HEAD) + r".*?(?=\n\n|\n?\Z)", PAGE.read_text(), re.DOTALL)
    shown = found[0] if found else ""
    assert shown == table(), f"replace the table of settings in docs/platform-engineers.md by\n\n{table()}\n"
