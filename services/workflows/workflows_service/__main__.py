"""The process of the workflows service: `python -m workflows_service [migrate]`."""

from api_common.server import main

from workflows_service.service import SERVICE

main(SERVICE)
