"""What the four services share; one room a package, see docs/contributors.md."""

import os

# gRPC core writes lines that are not JSON, one for each failed handshake. It reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
