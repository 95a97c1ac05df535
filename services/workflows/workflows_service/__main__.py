"""The process of the workflows service: `python -m workflows_service [migrate]`."""

from api_common.server import run_service

from workflows_service.service import SERVICE

run_service(SERVICE)
