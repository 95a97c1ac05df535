"""The process of the ipas service: `python -m ipas_service [migrate]`."""

from api_common.server import run_service

from ipas_service.service import SERVICE

run_service(SERVICE)
