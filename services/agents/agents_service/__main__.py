"""The process of the agents service: `python -m agents_service [migrate]`."""

from api_common.server import main

from agents_service.service import SERVICE

main(SERVICE)
