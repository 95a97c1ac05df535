"""`services.yaml` lists what is in `services/`, and says the same about each service as its own code."""

import pytest

from tests.services import Built, built_services
from tools.topology import NAMED


def test_every_folder_of_services_is_listed() -> None:
    assert {str(built) for built in built_services()} == set(NAMED)


@pytest.mark.parametrize("built", built_services(), ids=str)
def test_a_service_calls_whom_the_list_names(built: Built) -> None:
    listed, service = NAMED[str(built)], built.service
    assert service.name == listed.name
    assert list(service.siblings) == list(listed.siblings), f"services.yaml and {built}/service.py name other siblings"
    assert {*service.callers} <= {"edge", *listed.callers}, f"{built} opens its public methods to one that never calls"
    assert (service.api_keys is not None) == listed.issues_api_keys
