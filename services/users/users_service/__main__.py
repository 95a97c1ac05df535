"""The process of the users service: `python -m users_service [migrate]`."""

from api_common.server import main

from users_service.service import SERVICE

main(SERVICE)
