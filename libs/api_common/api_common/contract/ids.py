"""Ids of resources and of requests, as the contract writes them."""

import re
from typing import Final

UUID_PATTERN: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""A UUID in hexadecimal with its four hyphens, in whatever case."""
