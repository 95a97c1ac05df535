"""Writes the document: `python -m tools.openapi`."""

from tools.openapi.document import PATH, render

PATH.write_text(render())
