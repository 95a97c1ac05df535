"""The built configuration and clusters.yaml against the contract, the registry of errors and the services."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ameide.common.v1 import policy_pb2
from api_common.authn import CLAIM_MAPS, INTERNAL_ISSUER, InternalTokenSigner, KeySet, OidcVerifier
from api_common.call import CLIENT_HEADERS
from api_common.rpc import COMPRESSED_BYTES, MAX_STREAM_SECONDS
from api_common.server import MAX_METADATA_BYTES
from api_common.settings import WatchSettings
from buf.validate import validate_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message_factory import GetMessageClass

from tests.contract.built_edge import (
    CLUSTERS,
    COLLECTOR_CLUSTER,
    DISCOVERED,
    FILTERS,
    ISSUER_CLUSTER,
    LISTENERS,
    MANAGER,
    MAPPERS,
    OPEN,
    RESOURCE,
    ROUTES,
    dig,
)
from tests.protos import internal_methods, option, public_methods, public_services
from tools.edge.build import ENVOY, build
from tools.edge.validate import validate
from tools.secrets import identity
from tools.topology import AUDIENCE, COLLECTOR_PORT, ISSUER, ISSUER_PORT, SERVICES


def test_envoy_accepts_the_configuration(tmp_path: Path) -> None:
    validate(tmp_path)


def test_both_listeners_share_their_filters() -> None:
    assert [one["name"] for one in LISTENERS] == ["plain", "tls", "operations"]
    assert LISTENERS[0]["filter_chains"][0]["filters"] is LISTENERS[1]["filter_chains"][0]["filters"]


class TestService:
    def test_is_transcoded_and_counted(self) -> None:
        assert set(FILTERS["grpc_json_transcoder"]["services"]) == {one.full_name for one in public_services()}
        counted = FILTERS["grpc_stats"]["individual_method_stats_allowlist"]["services"]
        assert {one["name"]: set(one["method_names"]) for one in counted} == {
            one.full_name: {method.name for method in one.methods} for one in public_services()
        }

    @pytest.mark.parametrize("method", public_methods(), ids=lambda method: method.full_name)
    def test_gets_its_methods_and_the_safe_ones_again(self, method: MethodDescriptor) -> None:
        route = route_of(f"/{method.containing_service.full_name}/{method.name}")
        aggregate = method.containing_service.full_name.split(".")[1]
        assert route["cluster"] == f"{aggregate}s"
        is_stream = method.server_streaming
        assert route["timeout"] == ("0s" if is_stream else "30s")
        # Streams take no room from calls: they have a breaker and connections of their own.
        assert route.get("priority", "DEFAULT") == ("HIGH" if is_stream else "DEFAULT")
        # A stream is not asked for again once a service may have seen it: its client resumes.
        is_safe = method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS and not is_stream
        retries = route.get("retry_policy", MANAGER["route_config"]["virtual_hosts"][0]["retry_policy"])
        never_sent, lost = {"connect-failure", "refused-stream"}, {"reset", "unavailable", "cancelled"}
        assert set(retries["retry_on"].split(",")) == (never_sent | lost if is_safe else never_sent)

    def test_lets_streams_live_and_ends_those_that_fell_silent(self) -> None:
        paths = [f"/{one.containing_service.full_name}/{one.name}" for one in public_methods() if one.server_streaming]
        assert paths
        for path in paths:
            assert seconds(route_of(path)["idle_timeout"]) == 300
            deadlines = whole_route_of(path)["request_headers_to_add"]
            assert [one["append_action"] for one in deadlines] == ["ADD_IF_ABSENT"]
            # Clients of REST have no deadline of their own, and the edge's for everything else is short.
            assert deadlines[0]["header"] == {"key": "grpc-timeout", "value": f"{MAX_STREAM_SECONDS}S"}
        # Twice, and so with one lost, before anything on the way calls a stream idle.
        assert 2 * heartbeat_limit() <= min(300, seconds(MANAGER["stream_idle_timeout"]))

    @pytest.mark.parametrize(
        "path",
        [
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "/grpc.health.v1.Health/Check",
            "/envoy.service.auth.v3.Authorization/Check",
            "/v1/users",
            "/",
            "/ameide.user.v2.UserService/GetUser",
            *(f"/{method.containing_service.full_name}/{method.name}" for method in internal_methods()),
        ],
    )
    def test_gets_nothing_else(self, path: str) -> None:
        assert route_of(path)["cluster"] not in {cluster["name"] for cluster in CLUSTERS}
        assert route_of(path)["cluster_not_found_response_code"] == "NOT_FOUND"


def route_of(path: str) -> Any:
    """Returns what the route that a call takes does with it."""
    return whole_route_of(path)["route"]


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def heartbeat_limit() -> float:
    """Returns the longest time between heartbeats that a service can be told."""
    (limit,) = [one.le for one in WatchSettings.model_fields["heartbeat_seconds"].metadata if hasattr(one, "le")]
    return float(limit)


def whole_route_of(path: str) -> Any:
    """Returns the route that a call takes, as Envoy chooses: the first that matches."""
    for route in ROUTES:
        match = route["match"]
        regex = match.get("safe_regex", {}).get("regex")
        if re.fullmatch(regex, path) if regex else path.startswith(match.get("prefix", " ")):
            return route
    raise AssertionError(path)


def test_a_request_id_is_known_by_one_pattern() -> None:
    """The client's own comes back if it matches, also in a refusal of what the filters never saw."""
    early = json.dumps(MANAGER["early_header_mutation_extensions"])
    refusals = json.dumps(MAPPERS)
    pattern = r"request.headers\['x-request-id'\].matches\('([^']*)'\)"
    found = re.findall(pattern, early)
    assert len(found) == 1
    assert set(found) == set(re.findall(pattern, refusals))


class TestCluster:
    def test_is_there_for_every_service(self) -> None:
        address = ("load_assignment", "endpoints", 0, "lb_endpoints", 0, "endpoint", "address", "socket_address")
        found = {cluster["name"]: dig(cluster, *address) for cluster in CLUSTERS}
        assert found == {one.name: {"address": "127.0.0.1", "port_value": one.grpc_port} for one in SERVICES}
        assert dig(ISSUER_CLUSTER, *address)["port_value"] == ISSUER_PORT
        assert dig(COLLECTOR_CLUSTER, *address)["port_value"] == COLLECTOR_PORT

    @pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda cluster: cluster["name"])
    def test_is_guarded(self, cluster: dict[str, Any]) -> None:
        # Of calls, and of watches.
        breakers = {one.get("priority", "DEFAULT"): one for one in cluster["circuit_breakers"]["thresholds"]}
        assert breakers.keys() == {"DEFAULT", "HIGH"}
        for breaker in breakers.values():
            # More than one downstream connection may have open.
            assert breaker["max_requests"] > MANAGER["http2_protocol_options"]["max_concurrent_streams"]
            assert breaker["retry_budget"]["budget_percent"]["value"] == 10
            assert breaker["track_remaining"]
        # Never the only host.
        assert cluster["outlier_detection"]["max_ejection_percent"] == 50
        # A caller's choice of deadline must not take a host away from others.
        assert cluster["outlier_detection"]["enforcing_consecutive_5xx"] == 0
        assert cluster["outlier_detection"]["enforcing_success_rate"] == 0
        assert cluster["health_checks"][0]["grpc_health_check"] == {}
        # At once: tests/faults would see a second of refusals.
        assert cluster["common_lb_config"]["update_merge_window"] == "0s"
        assert cluster["per_connection_buffer_limit_bytes"] == 32768

    @pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda cluster: cluster["name"])
    def test_is_known_by_its_certificate(self, cluster: dict[str, Any]) -> None:
        tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]
        names = tls["combined_validation_context"]["default_validation_context"]["match_typed_subject_alt_names"]
        assert names == [{"san_type": "URI", "matcher": {"exact": f"spiffe://ameide.local/{cluster['name']}"}}]
        assert set(tls["tls_params"].values()) == {"TLSv1_3"}


class TestFilters:
    def test_stand_in_their_order(self) -> None:
        assert list(FILTERS) == [
            "challenge",
            "cors",
            "header_mutation",
            "transport",
            "compressor",
            "grpc_web",
            "address",
            "keys",
            "ext_authz",
            "jwt_authn",
            "rbac",
            "admit",
            "health_check",
            "announced",
            "connect_grpc_bridge",
            "buffer",
            "arrived",
            "mcp",
            "mcp_json_rest_bridge",
            "mcp_rest",
            "strict",
            "rest",
            "grpc_json_transcoder",
            "identity",
            "grpc_stats",
            "error_details",
            "router",
        ]

    def test_ask_for_a_token_everywhere_but_here(self) -> None:
        *open_paths, last = FILTERS["jwt_authn"]["rules"]
        *named, agents = sorted(open_paths, key=lambda rule: "prefix" in rule["match"])
        assert named == [{"match": {"path": path}} for path in OPEN]
        assert agents == {"match": {"prefix": f"{RESOURCE}/mcp"}}
        either = [{"provider_name": "ameide"}, {"provider_name": "internal"}]
        assert last == {"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": either}}}
        assert json.loads((ENVOY / "local" / "edge.json").read_text())["issuers"] == [ISSUER]
        # Nobody reaches a list of tools without the bridge, which comes behind this filter.
        direct = [route["match"]["path"] for route in ROUTES if {"direct_response", "redirect"} & set(route)]
        pages = [path for path in direct if not path.startswith("/mcp")]
        documents = {f"{RESOURCE}{path.removesuffix('/tools.json')}" for path in direct if path.startswith("/mcp")}
        assert {"/healthz", *pages} == {*OPEN, *documents}

    def test_verify_tokens_strictly(self) -> None:
        provider = FILTERS["jwt_authn"]["providers"]["ameide"]
        assert (provider["issuer"], provider["audiences"]) == (ISSUER, [AUDIENCE])
        assert provider["require_expiration"]
        assert (provider["max_lifetime"], provider["clock_skew_seconds"]) == ("86400s", 5)
        assert provider["forward"]
        assert (ENVOY / "local" / "audience.lua").read_text() == f'return "{AUDIENCE}"\n'
        source = (ENVOY / "lua" / "claims.lua").read_text()
        longest, skew = OidcVerifier.MAX_LIFETIME_SECONDS, OidcVerifier.CLOCK_SKEW_SECONDS
        assert f"local MAX_LIFETIME, SKEW = {longest}, {skew}\n" in source
        assert f"local MAX_BYTES = {OidcVerifier.MAX_TOKEN_BYTES}\n" in (ENVOY / "lua" / "transport.lua").read_text()
        assert f'local INTERNAL_ISSUER = "{INTERNAL_ISSUER}"\n' in source

    def test_are_told_whose_tokens_are_believed_by_the_environment(self) -> None:
        (told,) = (one for one in MANAGER["http_filters"] if one["name"].endswith("jwt_authn"))
        assert told["config_discovery"] == {
            "config_source": {"path_config_source": {"path": "./authentication.yaml"}},
            "type_urls": [DISCOVERED[told["name"]]["typed_config"]["@type"]],
        }

    def test_find_tenant_and_roles_where_the_services_do(self) -> None:
        files = {path.stem: path.read_text() for path in (ENVOY / "claims").iterdir()}
        paths = {
            name: [", ".join(f'"{step}"' for step in path) for path in (map_.tenant, map_.roles)]
            for name, map_ in CLAIM_MAPS.items()
        }
        assert files == {
            name: f"return {{tenant = {{{tenant}}}, roles = {{{roles}}}}}\n" for name, (tenant, roles) in paths.items()
        }

    def test_follow_the_keys_of_the_issuer(self) -> None:
        remote = FILTERS["jwt_authn"]["providers"]["ameide"]["remote_jwks"]
        assert remote["http_uri"]["cluster"] == ISSUER_CLUSTER["name"]
        assert remote["cache_duration"] == f"{identity.PUBLISH_SECONDS}s"
        # What a caller waits for can be made slow by a caller: keys are fetched beside the traffic.
        assert "async_fetch" in remote
        assert KeySet.MAX_AGE_SECONDS <= identity.PUBLISH_SECONDS

    def test_verify_the_tokens_of_api_keys_strictly(self) -> None:
        provider = FILTERS["jwt_authn"]["providers"]["internal"]
        assert (provider["issuer"], provider["audiences"]) == (INTERNAL_ISSUER, [AUDIENCE])
        assert provider["require_expiration"]
        assert provider["max_lifetime"] == f"{InternalTokenSigner.LIFETIME_SECONDS}s"

    def test_take_a_key_that_nobody_can_check_for_an_outage(self) -> None:
        checking = FILTERS["ext_authz"]["extension_config"]["typed_config"]
        assert checking["status_on_error"] == {"code": "ServiceUnavailable"}
        assert "failure_mode_allow" not in checking
        removed = MANAGER["route_config"]["request_headers_to_remove"]
        # Whatever passes the first rule stops here, unless gRPC or a service reads it, or Envoy removes it by itself.
        kept = CLIENT_HEADERS | {"connect-protocol-version", "content-type", "grpc-accept-encoding", "grpc-encoding"}
        kept |= {":authority", ":method", ":path", ":scheme", "grpc-timeout", "user-agent", "x-forwarded-proto"}
        kept |= {"connection", "content-length", "te", "transfer-encoding"}
        assert {*build(source="request_headers.yaml")} - kept == {*removed} - {
            "x-client-trace-id",
            "x-envoy-external-address",
        }


class TestCompression:
    @pytest.mark.parametrize("method", public_methods(), ids=lambda method: method.full_name)
    def test_leaves_secrets_alone(self, method: MethodDescriptor) -> None:
        """A secret beside text of somebody else's choice tells of itself by its compressed length (BREACH)."""
        if option(method, policy_pb2.policy).returns_secret:
            longest = json_format.MessageToJson(
                filled(method.output_type), always_print_fields_with_no_presence=True, indent=None
            )
            least = FILTERS["compressor"]["response_direction_config"]["common_config"]["min_content_length"]
            assert len(longest) < min(least, COMPRESSED_BYTES.start)

    def test_is_of_text_and_no_stream(self) -> None:
        common = FILTERS["compressor"]["response_direction_config"]["common_config"]
        assert common["content_type_matcher"] == [
            {"prefix": "application/json"},
            {"exact": "application/proto"},
            {"safe_regex": {"regex": "text/(html|css|javascript).*"}},
        ]


def filled(descriptor: Descriptor) -> Any:
    """Returns a message whose texts are as long as may be: the caller's in six characters each, ours of one."""
    message: Any = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        assert not field.is_repeated, f"{field.full_name}: how long can it get?"
        if field.message_type is not None and field.message_type.file.package.startswith("ameide"):
            getattr(message, field.name).CopyFrom(filled(field.message_type))
        elif field.type == field.TYPE_STRING:
            most = option(field, validate_pb2.field).string.max_len
            setattr(message, field.name, "\x01" * most if most else "x" * 255)
    return message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("http2_protocol_options", "max_concurrent_streams"), 1000),
        (("http2_protocol_options", "max_outbound_frames"), 10_000),
        (("http2_protocol_options", "max_outbound_control_frames"), 1000),
        (("http2_protocol_options", "max_consecutive_inbound_frames_with_empty_payload"), 1),
        (("http2_protocol_options", "max_inbound_priority_frames_per_stream"), 100),
        (("http2_protocol_options", "max_inbound_window_update_frames_per_data_frame_sent"), 10),
        (("stream_idle_timeout",), "300s"),
        (("common_http_protocol_options", "idle_timeout"), "900s"),
        (("common_http_protocol_options", "max_connection_duration"), "1800s"),
        (("http1_safe_max_connection_duration",), True),
        (("common_http_protocol_options", "max_headers_count"), 100),
        (("drain_timeout",), "5s"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else str(value),
)
def test_limit_of_the_design(path: tuple[str, ...], value: object) -> None:
    assert dig(MANAGER, *path) == value


def test_message_limit_is_ten_mebibytes_and_the_frame_of_grpc() -> None:
    rest = ROUTES[-1]["typed_per_filter_config"]["envoy.filters.http.buffer"]["buffer"]["max_request_bytes"]
    assert (rest, FILTERS["buffer"]["max_request_bytes"]) == (10 * 1024**2, 10 * 1024**2 + 5)


def test_headers_that_pass_here_pass_in_the_services() -> None:
    bound = 16 * 1024
    assert f"local MAX_BYTES = {bound}\n" in (ENVOY / "lua" / "transport.lua").read_text()
    # The request may repeat its path once (x-envoy-original-path) and gains a few headers on the way.
    assert 2 * bound < MAX_METADATA_BYTES
