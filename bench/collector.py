"""A collector that accepts everything over OTLP (gRPC) and discards it; listens on the port in `PORT`."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc


class Anything(grpc.GenericRpcHandler):
    """Answers every method of every signal with an empty message, which is a valid response."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Anything()])
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    server.start()
    server.wait_for_termination()
