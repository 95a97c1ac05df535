"""What the edge says about the API to anybody: the OpenAPI document and the page that shows it."""

import json
import re
from typing import Final

import httpx
import pytest
from api_common.errors import EDGE_REPLIES

from tests.e2e.edge.callers import rest_refusal
from tests.e2e.edge.plugin import Edge
from tools.edge.build import ENVOY, GENERATED, build
from tools.openapi import docs_page
from tools.openapi.document import PATH
from tools.topology import ISSUER_PORT

NOT_ALLOWED: Final = next(reply for reply in EDGE_REPLIES if reply.http_status == 405)
FILES: Final = {
    "/openapi.json": (PATH, "application/json", "no-cache"),
    "/llms.txt": (GENERATED / "llms.txt", "text/plain; charset=utf-8", "no-cache"),
    "/docs": (ENVOY / "docs" / "index.html", "text/html; charset=utf-8", "no-cache"),
    "/docs/start.js": (ENVOY / "docs" / "start.js", "text/javascript; charset=utf-8", "no-cache"),
    "/docs/page.css": (ENVOY / "docs" / "page.css", "text/css; charset=utf-8", "no-cache"),
    "/docs/swagger-ui.css": (docs_page.FOLDER / "swagger-ui.css", "text/css; charset=utf-8", "max-age=3600"),
    "/docs/swagger-ui-bundle.js": (
        *(docs_page.FOLDER / "swagger-ui-bundle.js", "text/javascript; charset=utf-8", "max-age=3600"),
    ),
    "/console": (ENVOY / "console" / "index.html", "text/html; charset=utf-8", "no-cache"),
    "/console/console.js": (ENVOY / "console" / "console.js", "text/javascript; charset=utf-8", "no-cache"),
    "/console/console.css": (ENVOY / "console" / "console.css", "text/css; charset=utf-8", "no-cache"),
}
PAGES: Final = ("/docs", "/console")


@pytest.mark.parametrize("path", FILES)
class TestDocument:
    async def test_is_served_to_anybody(self, anonymous: httpx.AsyncClient, path: str) -> None:
        file, content_type, cache_control = FILES[path]
        answer = await anonymous.get(path)
        assert (answer.status_code, answer.content) == (200, file.read_bytes())
        assert answer.headers.get_list("content-type") == [content_type]
        assert answer.headers.get_list("cache-control") == [cache_control]
        assert answer.headers["x-content-type-options"] == "nosniff"

    async def test_is_served_to_those_with_a_token_and_over_tls(self, edge: Edge, path: str) -> None:
        async with httpx.AsyncClient(base_url=edge.secure_url, verify=edge.trust, headers=edge.credentials) as client:
            answer = await client.get(path)
        assert (answer.status_code, answer.content) == (200, FILES[path][0].read_bytes())
        assert answer.headers["strict-transport-security"]

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
    async def test_is_there_to_be_read_only(self, anonymous: httpx.AsyncClient, path: str, method: str) -> None:
        refused = await anonymous.request(method, path)
        rest_refusal(refused).is_row(NOT_ALLOWED, http_status=405)
        assert refused.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
async def test_what_a_client_has_is_not_sent_again(edge: Edge, http2: bool) -> None:
    # From addresses whose buckets for pages are whole.
    address = f"127.0.0.{3 + http2}"
    transport = httpx.AsyncHTTPTransport(verify=False, http1=not http2, http2=http2, local_address=address)
    async with edge.client(transport=transport) as client:
        path, tag = "", ""
        for path, (*_, cache_control) in FILES.items():
            tag = (await client.get(path)).headers["etag"]
            answer = await client.get(path, headers={"if-none-match": tag})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag), path
            assert answer.headers["cache-control"] == cache_control
            assert not {"content-length", "content-type", "content-encoding"} & set(answer.headers)
        for known in (f"W/{tag}", f'"x", {tag}', f'{tag},W/"y"', "*"):
            for method in ("GET", "HEAD"):
                assert (await client.request(method, path, headers={"if-none-match": known})).status_code == 304, known
        for other in ('"x"', tag.strip('"'), tag[:-1], f"x{tag}"):
            assert (await client.get(path, headers={"if-none-match": other})).status_code == 200, other


async def test_a_browser_that_asks_for_nothing_is_led_to_the_documents(anonymous: httpx.AsyncClient) -> None:
    for method in ("GET", "HEAD"):
        answer = await anonymous.request(method, "/")
        assert (answer.status_code, answer.headers["location"], answer.content) == (303, "/docs", b"")
    assert (await anonymous.post("/")).status_code == 405


async def test_the_former_page_leads_to_the_console(anonymous: httpx.AsyncClient) -> None:
    answer = await anonymous.get("/docs/live")
    assert (answer.status_code, answer.headers["location"]) == (308, "/console")


async def test_only_the_development_edge_leads_to_its_issuer(edge: Edge, anonymous: httpx.AsyncClient) -> None:
    answer = await anonymous.get("/console/sign-in?state=one")
    there = f"http://127.0.0.1:{ISSUER_PORT + edge.offset}/sign-in?state=one"
    assert (answer.status_code, answer.headers["location"]) == (303, there)
    assert (await anonymous.post("/console/sign-in")).status_code == 405
    assert "/sign-in" in json.dumps(build()) and "/sign-in" not in json.dumps(build(decisions=None))


class TestPage:
    @pytest.mark.parametrize("page", PAGES)
    async def test_allows_nothing_from_elsewhere_and_no_script_inside(
        self, anonymous: httpx.AsyncClient, page: str
    ) -> None:
        answer = await anonymous.get(page)
        (policy,) = answer.headers.get_list("content-security-policy")
        allowed = dict(part.split(" ", 1) for part in policy.split("; "))
        assert allowed == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "connect-src": "'self'",
            "img-src": "'self' data:",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }

    async def test_names_only_files_that_are_served(self, anonymous: httpx.AsyncClient) -> None:
        named = {
            name for page in PAGES for name in re.findall(r'(?:src|href)="([^"]*)"', (await anonymous.get(page)).text)
        }
        files = {path for path in FILES if path.startswith(("/docs/", "/console/"))}
        assert named == files | {"data:,", "#main", "/console"}
        assert 'url: "/openapi.json"' in FILES["/docs/start.js"][0].read_text()
