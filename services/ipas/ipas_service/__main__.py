"""The process of the ipas service: `python -m ipas_service [migrate]`."""

from api_common.server import main

from ipas_service.service import SERVICE

main(SERVICE)
