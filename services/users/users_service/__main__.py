"""The process of the users service: `python -m users_service [migrate]`."""

from api_common.server import run_service

from users_service.service import SERVICE

run_service(SERVICE)
