"""Starts the images of users and edge as the chart does, and looks at what they do: `make check-images`.

The service stands before a real Postgres; the edge comes up by itself, as it must.
"""

import argparse
import asyncio
import shlex
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import grpc
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.authn import channel_credentials
from api_common.db import provision
from api_common.settings import TlsSettings
from api_common.testing import AUDIENCE, ISSUER, PEPPER, Identity, postgres_server
from cryptography.fernet import Fernet

from libs.api_common.tests.proxy import Proxy
from services.users.tests.factories import a_user
from tests.images.engine import CheckError, Engine
from tools.edge.layout import lay_out
from tools.secrets import certificates

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

LARGEST_MB: Final = {"users": 250, "edge": 200}
"""How large an image may be, on whatever base."""
INSIDE: Final = "/run/check"
"""Where a container sees the folder of this check."""


def main() -> None:
    """Says what it sees; exits with 1 and the reason if an image does not do what it must."""
    parser = argparse.ArgumentParser(prog="python -m tests.images.check")
    parser.add_argument("builder", help="docker or podman")
    parser.add_argument("image", help="what the images are called, without -users and -edge")
    parser.add_argument("tag")
    parser.add_argument("--run", default="", help="options for each run")
    options = parser.parse_args()
    engine = Engine(options.builder, shlex.split(options.run))
    with tempfile.TemporaryDirectory(prefix="images") as name, postgres_server() as admin_url:
        try:
            asyncio.run(_check(engine, f"{options.image}-{{}}:{options.tag}", Path(name), admin_url))
        except CheckError as error:
            raise SystemExit(str(error)) from None


async def _check(engine: Engine, image: str, folder: Path, admin_url: str) -> None:
    started = time.monotonic()
    certificates.ensure(folder / "certificates")
    lay_out(folder / "edge", certs=folder / "certificates")
    identity = Identity(folder)
    _let_everybody_read(folder)
    await check_users(engine, image.format("users"), folder, identity, admin_url)
    await check_edge(engine, image.format("edge"), folder)
    for name, largest in LARGEST_MB.items():
        size = int(await engine.ask("image", "inspect", "--format", "{{.Size}}", image.format(name))) / 1e6
        print(f"{name}: {size:.0f} MB")
        if size > largest:
            raise CheckError(f"{image.format(name)} has {size:.0f} MB; it may have {largest}")
    print(f"Both images do what they must ({time.monotonic() - started:.0f} s).")


async def check_users(engine: Engine, image: str, folder: Path, identity: Identity, admin_url: str) -> None:
    """Migrates, starts, calls and stops the users image.

    Raises:
        CheckError: any of it goes wrong.
    """
    urls = await provision(admin_url, "users")
    async with Proxy.before(urls.application) as proxy:
        # A container sees no socket file of this machine.
        owner = urlsplit(proxy.url)._replace(netloc=f"{urlsplit(urls.owner).username}@127.0.0.1:{proxy.port}").geturl()
        port, environment = _environment(proxy.url, owner)
        told = (f"--env=USERS_{name}={value}" for name, value in environment.items())
        options = ["--network=host", f"--volume={folder}:{INSIDE}:ro", *told]
        code, said = await engine.run(image, options=options)
        if code == 0 or "migrate" not in said:
            raise CheckError(f"{image} ended with {code} where no schema is, and said:\n{said}")
        code, said = await engine.run(image, "migrate", options=options)
        if code:
            raise CheckError(f"{image} migrate ended with {code}:\n{said}")
        print("users: refuses to start without a schema, and migrates it", flush=True)
        async with engine.running(image, options=options):
            await _create_user(folder, identity, port)
            print("users: healthy, not root, cannot write, answers a call", flush=True)
        print("users: ended with 0 after SIGTERM", flush=True)


async def check_edge(engine: Engine, image: str, folder: Path) -> None:
    """Validates the configuration in the edge's image, starts and stops it.

    Raises:
        CheckError: any of it goes wrong.
    """
    # A network of its own, with nobody in it: it must come up before anything behind it does.
    options = [
        "--network=none",
        f"--volume={folder / 'edge'}:/config:ro",
        f"--volume={folder / 'certificates'}:/run/tls:ro",
    ]
    code, said = await engine.run(image, "--mode", "validate", options=options)
    if code:
        raise CheckError(f"{image} does not take its configuration:\n{said}")
    print("edge: its configuration is valid", flush=True)
    async with engine.running(image, options=options):
        print("edge: healthy, not root, cannot write", flush=True)
    print("edge: ended with 0 after SIGTERM", flush=True)


async def _create_user(folder: Path, identity: Identity, port: int) -> None:
    certificate, key, ca = (folder / "certificates" / name for name in ("edge.pem", "edge.key", "ca.pem"))
    tls = TlsSettings(certificate_path=certificate, private_key_path=key, ca_path=ca)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", channel_credentials(tls)) as channel:
        users: UserServiceAsyncStub = UserServiceStub(channel)
        metadata = identity.caller("acme", "admin").metadata
        await users.CreateUser(pb.CreateUserRequest(user=a_user()), metadata=metadata, timeout=20)


def _environment(application: str, owner: str) -> tuple[int, Mapping[str, object]]:
    """Returns the port for calls, and what the service is told beside its name."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        port, operations_port = (one.getsockname()[1] for one in sockets)
    return port, {
        "SERVER_HOST": "127.0.0.1",
        "SERVER_GRPC_PORT": port,
        "SERVER_OPERATIONS_PORT": operations_port,
        "SERVER_DRAIN_DELAY_SECONDS": 1,
        "DATABASE_URL": application,
        "DATABASE_OWNER_URL": owner,
        "TLS_CERTIFICATE_PATH": f"{INSIDE}/certificates/users.pem",
        "TLS_PRIVATE_KEY_PATH": f"{INSIDE}/certificates/users.key",
        "TLS_CA_PATH": f"{INSIDE}/certificates/ca.pem",
        "AUTH_ISSUER": ISSUER,
        "AUTH_AUDIENCE": AUDIENCE,
        "AUTH_JWKS_PATH": f"{INSIDE}/jwks.json",
        "AUTH_INTERNAL_JWKS_PATH": f"{INSIDE}/internal-jwks.json",
        "APIKEYS_PEPPER": PEPPER,
        "APIKEYS_SIGNING_KEY_PATH": f"{INSIDE}/internal.pem",
        "PAGINATION_KEYS": Fernet.generate_key().decode(),
    }


def _let_everybody_read(folder: Path) -> None:
    """Makes private keys readable for the user of the images; in a cluster the volume's group does that."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


if __name__ == "__main__":
    main()
