"""Every number that limits something, asked of the running edge and not of its file (design decision 9)."""

from typing import Any, Final

import httpx
import pytest

from tests.e2e.edge.plugin import Edge
from tests.protos import ROOT

MIB: Final = 1024 * 1024


class Running:
    """What `/config_dump` and `/server_info` say, with a way into it."""

    def __init__(self, dump: dict[str, Any], server: dict[str, Any]) -> None:
        by_type = {one["@type"].rpartition(".")[2]: one for one in dump["configs"]}
        self.bootstrap: dict[str, Any] = by_type["BootstrapConfigDump"]["bootstrap"]
        self.options: dict[str, Any] = server["command_line_options"]
        self.clusters = [one["cluster"] for one in by_type["ClustersConfigDump"]["dynamic_active_clusters"]]
        self.listeners = [one["listener"] for one in by_type["ListenersConfigDump"]["static_listeners"]]
        managers = [one["filter_chains"][0]["filters"][0]["typed_config"] for one in self.listeners]
        assert managers[0] == managers[1], "the listeners differ"
        self.manager: dict[str, Any] = managers[0]
        self.discovered = [one["ecds_filter"] for one in by_type["EcdsConfigDump"]["ecds_filters"]]

    def filter(self, name: str) -> dict[str, Any]:
        known = [one for one in (*self.discovered, *self.manager["http_filters"]) if "typed_config" in one]
        named: list[dict[str, Any]] = [one["typed_config"] for one in known if one["name"].endswith(f".{name}")]
        return named[0]

    def monitor(self, name: str) -> dict[str, Any]:
        monitors = {one["name"]: one["typed_config"] for one in self.bootstrap["overload_manager"]["resource_monitors"]}
        found: dict[str, Any] = monitors[f"envoy.resource_monitors.{name}"]
        return found


@pytest.fixture(scope="module")
async def running(edge: Edge) -> Running:
    async with httpx.AsyncClient(base_url=edge.admin, verify=False) as admin:
        dump, server = await admin.get("/config_dump"), await admin.get("/server_info")
    return Running(dump.json(), server.json())


class TestSizes:
    def test_of_a_message_is_ten_mebibytes(self, running: Running) -> None:
        # Native gRPC has five bytes of frame around it; REST is matched by the last route until it is transcoded.
        assert running.filter("buffer")["max_request_bytes"] == 10 * MIB + 5
        last = running.manager["route_config"]["virtual_hosts"][0]["routes"][-1]
        per_route = last["typed_per_filter_config"]["envoy.filters.http.buffer"]
        assert per_route["buffer"]["max_request_bytes"] == 10 * MIB
        transcoder = running.filter("grpc_json_transcoder")
        assert (transcoder["max_request_body_size"], transcoder["max_response_body_size"]) == (16 * MIB, 64 * MIB)

    def test_of_headers_are_sixteen_kibibytes_and_a_hundred(self, running: Running) -> None:
        assert running.manager["max_request_headers_kb"] == 96
        assert running.manager["common_http_protocol_options"]["max_headers_count"] == 100
        assert "headers_too_large" in running.filter("rbac")["rules"]["policies"]
        assert "local MAX_BYTES = 16384\n" in (ROOT / "envoy" / "lua" / "transport.lua").read_text()

    def test_of_buffers_are_32_kibibytes_a_connection(self, running: Running) -> None:
        everyone = [*running.listeners, *running.clusters]
        assert {one["per_connection_buffer_limit_bytes"] for one in everyone} == {32 * 1024}
        windows = running.manager["http2_protocol_options"]
        assert windows["initial_stream_window_size"] == 64 * 1024
        assert windows["initial_connection_window_size"] == MIB


class TestCounts:
    def test_of_streams_are_a_thousand_a_connection(self, running: Running) -> None:
        assert running.manager["http2_protocol_options"]["max_concurrent_streams"] == 1000
        options = [
            one["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
            for one in running.clusters
            if "typed_extension_protocol_options" in one and one["name"] != "collector"
        ]
        upstream = {one["explicit_http_config"]["http2_protocol_options"]["max_concurrent_streams"] for one in options}
        assert (len(options), upstream) == (4, {1000})

    def test_of_connections_are_sixteen_thousand(self, running: Running) -> None:
        connections = running.monitor("global_downstream_max_connections")
        assert int(connections["max_active_downstream_connections"]) == 16_000
        # The operator of a full edge still gets in.
        assert running.bootstrap["admin"]["ignore_global_conn_limit"]
        assert running.bootstrap["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"

    def test_of_resets_are_two_thousand(self, running: Running) -> None:
        fixed, told = running.bootstrap["layered_runtime"]["layers"]
        # The size of regular expressions is no limit for callers: they are ours, and RE2 matches in linear time.
        assert fixed["static_layer"].pop("re2.max_program_size.error_level") == 100_000
        # A connection's requests take turns with those of others (tests/security/test_http2_floods.py).
        assert fixed["static_layer"].pop("http.max_requests_per_io_cycle") == 1
        assert fixed["static_layer"] == {"overload.premature_reset_total_stream_count": 2000}
        # The environment says how much is traced; a process that may write its files controls the edge anyway.
        assert told["disk_layer"] == {"symlink_root": "./runtime"}


class TestTimes:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("stream_idle_timeout", "300s"),
            ("drain_timeout", "5s"),
            ("request_timeout", "60s"),
            ("request_headers_timeout", "10s"),
        ],
    )
    def test_of_a_stream(self, running: Running, name: str, value: str) -> None:
        assert running.manager[name] == value

    def test_of_an_idle_connection_is_fifteen_minutes(self, running: Running) -> None:
        assert running.manager["common_http_protocol_options"]["idle_timeout"] == "900s"

    def test_of_draining_is_thirty_seconds(self, running: Running) -> None:
        assert running.options["drain_time"] == "30s"

    def test_of_a_call_is_thirty_seconds(self, running: Running) -> None:
        (host,) = running.manager["route_config"]["virtual_hosts"]
        routes = [one["route"] for one in host["routes"] if "route" in one]
        services = [one for one in routes if one["cluster"] != "nowhere"]
        streams = [one["match"] for one in host["routes"] if one.get("route", {}).get("timeout") == "0s"]
        assert {one["timeout"] for one in services} == {"30s", "0s"}
        assert all("Service/(Watch" in match["safe_regex"]["regex"] for match in streams)
        # What leads nowhere yet: every REST path before the transcoder, and what agents ask for.
        assert all("timeout" not in one for one in routes if one not in services)

    def test_of_a_token_is_a_day_and_of_one_made_for_a_key_a_minute(self, running: Running) -> None:
        providers = running.filter("jwt_authn")["providers"]
        assert {name: one["max_lifetime"] for name, one in providers.items()} == {"ameide": "86400s", "internal": "60s"}
        for provider in providers.values():
            assert (provider["require_expiration"], provider["clock_skew_seconds"]) == (True, 5)


class TestOverload:
    def test_is_managed_by_the_heap(self, running: Running) -> None:
        overload = running.bootstrap["overload_manager"]
        heap = running.monitor("fixed_heap")
        assert (int(heap["max_heap_size_bytes"]), overload["refresh_interval"]) == (1024 * MIB, "0.250s")
        thresholds = {one["name"].rpartition(".")[2]: one["triggers"] for one in overload["actions"]}
        assert thresholds.pop("reset_high_memory_stream") == [
            {
                "name": "envoy.resource_monitors.fixed_heap",
                "scaled": {"scaling_threshold": 0.8, "saturation_threshold": 0.95},
            }
        ]
        assert thresholds.pop("reduce_timeouts") == [
            {
                "name": "envoy.resource_monitors.fixed_heap",
                "scaled": {"scaling_threshold": 0.2, "saturation_threshold": 0.35},
            }
        ]
        (shed,) = overload["loadshed_points"]
        assert shed["name"] == "envoy.load_shed_points.http2_server_go_away_and_close_on_dispatch"
        assert [trigger["threshold"] for trigger in shed["triggers"]] == [{"value": 0.95}]
        assert overload["buffer_factory_config"] == {"minimum_account_to_track_power_of_two": 20}
        expected = {"shrink_heap": 0.9, "disable_http_keepalive": 0.92, "stop_accepting_requests": 0.95}
        assert {name: trigger["threshold"]["value"] for name, (trigger,) in thresholds.items()} == expected
