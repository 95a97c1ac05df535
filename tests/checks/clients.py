"""`make check-clients`: the conformance suite with the oldest and the newest versions of what the clients need.

Both packages are built, installed as a user would, and used by a small program that mypy and tsc read strictly.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.checks.table import Table
from tools.clients import python, typescript
from tools.topology import ROOT

UV: Final = str(Path(sys.executable).with_name("uv"))
PYTHON_PROGRAM: Final = """\
from ameide_client import ApiError, AsyncClient, Client, RetryPolicy, errors
from ameide_client.types import User


def names(client: Client) -> list[str]:
    return [user.display_name for user in client.users.list(retry=RetryPolicy(max_attempts=1))]


async def rename(client: AsyncClient, id: str) -> User:
    try:
        return await client.users.update(User(id=id, display_name="Ada"), update_mask=["display_name"])
    except errors.ApiError as error:
        caught: ApiError = error
        raise SystemExit(f"{caught.reason} {caught.request_id}") from None
"""
TYPESCRIPT_PROGRAM: Final = """\
import { type Ameide, ApiError, paginate, type User, withRetry } from "@ameide/client";
import { fileToken } from "@ameide/client/node";

export const token: () => Promise<string> = fileToken("token");

export async function rename(api: Ameide, id: string): Promise<User | string> {
  for await (const user of paginate(api.users.listUsers, { filter: "a" }, withRetry({ maxAttempts: 1 }))) {
    console.log(user.displayName);
  }
  try {
    return await api.users.updateUser({ user: { id, displayName: "Ada" }, updateMask: { paths: ["display_name"] } });
  } catch (error) {
    return error instanceof ApiError ? `${error.reason} ${error.requestId}` : "unknown";
  }
}
"""
STRICT: Final = {"strict": True, "module": "nodenext", "target": "es2022", "noEmit": True, "types": ["node"]}


def run(*command: str, folder: Path = ROOT, **variables: str) -> None:
    subprocess.run(command, cwd=folder, env={**os.environ, **variables}, check=True)


def python_with(folder: Path, resolution: str) -> Path:
    """Makes a virtual environment with the client as pip would install it, and returns its interpreter."""
    venv, dist = folder / "venv", folder / "dist"
    wheels = [str(wheel) for wheel in python.wheels(dist)]
    run(UV, "venv", "--quiet", "--python", sys.executable, str(venv))
    found = venv / "bin" / "python"
    run(UV, "pip", "install", "--quiet", "--python", str(found), f"--resolution={resolution}", *wheels)
    (folder / "program.py").write_text(PYTHON_PROGRAM)
    mypy = Path(sys.executable).with_name("mypy")
    run(str(mypy), "--strict", "--no-incremental", f"--python-executable={found}", "program.py", folder=folder)
    return found


def typescript_with(folder: Path, newest: bool) -> Path:
    """Installs the packed client beside the oldest or newest versions of what it needs, and returns its folder."""
    described: dict[str, Any] = json.loads((typescript.PACKAGE / "package.json").read_text())
    needs: dict[str, str] = described["dependencies"]
    versions = [f"{name}@{version if newest else version.lstrip('^')}" for name, version in needs.items()]
    packed = typescript.package(folder)
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    npm = ("npm", "install", "--no-audit", "--no-fund", "--silent", "--ignore-scripts")
    run(*npm, str(packed), *versions, "typescript@7.0.2", "@types/node@26.6.6", folder=folder)
    (folder / "program.ts").write_text(TYPESCRIPT_PROGRAM)
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": STRICT, "include": ["program.ts"]}))
    run("node_modules/.bin/tsc", "-p", ".", folder=folder)
    shutil.copytree(typescript.PACKAGE / "dist", folder / "dist")
    return folder


def main() -> None:
    """Prints a line for each end of the ranges, and fails if one does not hold."""
    typescript.build()
    table = Table("The clients and what they need")
    for resolution in ("lowest-direct", "highest"):
        with (
            table.line(f"{resolution} versions") as seen,
            tempfile.TemporaryDirectory() as one,
            tempfile.TemporaryDirectory() as other,
        ):
            interpreter = python_with(Path(one), resolution)
            package = typescript_with(Path(other), newest=resolution == "highest")
            pytest = (sys.executable, "-m", "pytest", "-q", "tests/e2e/edge/test_conformance.py")
            run(*pytest, CLIENT_PYTHON=str(interpreter), CLIENT_TYPESCRIPT=str(package))
            seen.append("types and all scenarios")
    table.finish()


if __name__ == "__main__":
    main()
