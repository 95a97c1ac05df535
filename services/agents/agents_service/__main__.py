"""The process of the agents service: `python -m agents_service [migrate]`."""

from api_common.server import run_service

from agents_service.service import SERVICE

run_service(SERVICE)
