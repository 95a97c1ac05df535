"""What a process is told by its environment."""

from pathlib import Path

import pytest
from api_common.settings import Settings, SettingsError, load_owner_url

COMPLETE = {
    "IPAS_SERVER_GRPC_PORT": "50054",
    "IPAS_SERVER_OPERATIONS_PORT": "9104",
    "IPAS_DATABASE_URL": "postgresql://ipas_app:hunter2@db/ipas",
    "IPAS_TLS_CERTIFICATE_PATH": "tls.crt",
    "IPAS_TLS_PRIVATE_KEY_PATH": "tls.key",
    "IPAS_TLS_CA_PATH": "ca.crt",
    "IPAS_AUTH_ISSUER": "https://issuer.test/",
    "IPAS_AUTH_AUDIENCE": "ameide-api",
    "IPAS_PAGINATION_KEYS": "first-secret, second-secret,",
    "IPAS_CLIENTS_WORKFLOWS_ADDRESS": "workflows:50052",
    "IPAS_CLIENTS_AGENTS_ADDRESS": "agents:50053",
}
SIBLINGS = ("workflows", "agents")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A complete one; a test takes away or changes what it is about."""
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def load() -> Settings:
    return Settings.load("ipas", siblings=SIBLINGS)


def faults_of(error: SettingsError) -> dict[str, str]:
    """Returns what is wrong, by variable."""
    first, *lines = str(error).splitlines()
    assert first == "The environment is incomplete:"
    return {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in lines)}


@pytest.mark.usefixtures("environment")
def test_a_complete_environment_is_read() -> None:
    settings = load()
    assert (settings.server.grpc_port, settings.server.operations_port) == (50054, 9104)
    assert settings.database.url.get_secret_value() == COMPLETE["IPAS_DATABASE_URL"]
    assert [key.get_secret_value() for key in settings.pagination.keys] == ["first-secret", "second-secret"]
    assert settings.siblings == {"workflows": "workflows:50052", "agents": "agents:50053"}


@pytest.mark.usefixtures("environment")
def test_what_nobody_set_is_safe() -> None:
    settings = load()
    assert settings.server.reflection_enabled is False
    assert settings.server.drain_seconds < 30
    assert (settings.log.level, settings.database.pool_size) == ("info", 10)
    assert (settings.auth.jwks_path, settings.auth.claims) == (None, "generic")


def test_everything_that_is_missing_is_reported_at_once(environment: pytest.MonkeyPatch) -> None:
    for name in COMPLETE:
        environment.delenv(name)
    with pytest.raises(SettingsError) as caught:
        load()
    assert set(faults_of(caught.value)) == set(COMPLETE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IPAS_SERVER_GRPC_PORT", "http"),
        ("IPAS_SERVER_DRAIN_SECONDS", "31"),
        ("IPAS_SERVER_DRAIN_SECONDS", "0"),
        ("IPAS_SERVER_REFLECTION_ENABLED", "maybe"),
        ("IPAS_DATABASE_POOL_SIZE", "0"),
        ("IPAS_DATABASE_POOL_SIZE", "101"),
        ("IPAS_LOG_LEVEL", "loud"),
        ("IPAS_AUTH_CLAIMS", "okta"),
        ("IPAS_PAGINATION_KEYS", " , "),
        ("IPAS_CLIENTS_AGENTS_ADDRESS", "https://agents/"),
        ("IPAS_CLIENTS_AGENTS_ADDRESS", "agents"),
    ],
)
def test_what_is_malformed_is_reported_by_name(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load()
    assert set(faults_of(caught.value)) == {name}


def test_only_who_issues_api_keys_needs_their_secrets(environment: pytest.MonkeyPatch) -> None:
    assert load().api_keys is None
    with pytest.raises(SettingsError) as missing:
        Settings.load("ipas", siblings=SIBLINGS, api_keys=True)
    assert set(faults_of(missing.value)) == {"IPAS_APIKEYS_PEPPER", "IPAS_APIKEYS_SIGNING_KEY_PATH"}
    environment.setenv("IPAS_APIKEYS_SIGNING_KEY_PATH", "key.pem")
    environment.setenv("IPAS_APIKEYS_PEPPER", f"{'n' * 32},too short")
    with pytest.raises(SettingsError) as short:
        Settings.load("ipas", siblings=SIBLINGS, api_keys=True)
    assert set(faults_of(short.value)) == {"IPAS_APIKEYS_PEPPER"}
    assert "too short" not in str(short.value)
    environment.setenv("IPAS_APIKEYS_PEPPER", f"{'n' * 32},{'o' * 32}")
    found = Settings.load("ipas", siblings=SIBLINGS, api_keys=True).api_keys
    assert found is not None
    assert [one.get_secret_value()[0] for one in found.pepper] == ["n", "o"]


def test_other_services_variables_mean_nothing(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("USERS_SERVER_GRPC_PORT", "1")
    environment.setenv("SERVER_GRPC_PORT", "2")
    assert load().server.grpc_port == 50054


def test_secrets_are_never_printed(environment: pytest.MonkeyPatch) -> None:
    assert not {"hunter2", "first-secret"} & _words(repr(load()) + str(load()))
    environment.delenv("IPAS_AUTH_ISSUER")
    environment.setenv("IPAS_LOG_LEVEL", "hunter2")
    with pytest.raises(SettingsError) as caught:
        load()
    assert not {"hunter2", "first-secret"} & _words(str(caught.value))


@pytest.mark.usefixtures("environment")
def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().server.grpc_port = 1


def test_migrations_need_the_owner_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPAS_DATABASE_OWNER_URL", "postgresql://ipas_owner@db/ipas")
    assert load_owner_url("ipas") == "postgresql://ipas_owner@db/ipas"
    for name in ("IPAS_DATABASE_OWNER_URL", "USERS_DATABASE_OWNER_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match="USERS_DATABASE_OWNER_URL"):
        load_owner_url("users")


def _words(text: str) -> set[str]:
    return {secret for secret in ("hunter2", "first-secret") if secret in text}


def test_a_variable_may_be_a_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setattr("api_common.settings._SECRETS", tmp_path)
    environment.delenv("IPAS_PAGINATION_KEYS")
    # As Kubernetes mounts it.
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "IPAS_PAGINATION_KEYS").write_text("first-secret, second-secret\n")
    (tmp_path / "IPAS_PAGINATION_KEYS").symlink_to("..data/IPAS_PAGINATION_KEYS")
    keys = load().pagination.keys
    assert [key.get_secret_value() for key in keys] == ["first-secret", "second-secret"]
