"""Mutual TLS between the edge and the services; certificates may be replaced on disk at any time."""

import grpc

from api_common.settings import TlsSettings


def server_credentials(settings: TlsSettings) -> grpc.ServerCredentials:
    """Returns credentials that require a client certificate of our authority; new files apply to new connections."""
    files = (settings.private_key_path, settings.certificate_path, settings.ca_path)
    loaded = settings.file_versions

    def configuration() -> grpc.ServerCertificateConfiguration:
        key, certificate, authority = (path.read_bytes() for path in files)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authority)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        # Called by gRPC before each handshake.
        nonlocal loaded
        found = settings.file_versions
        if found == loaded:
            return None
        loaded = found
        return configuration()

    # None means unchanged, which the stubs do not know.
    return grpc.dynamic_ssl_server_credentials(configuration(), changed, True)  # type: ignore[arg-type]


def channel_credentials(settings: TlsSettings) -> grpc.ChannelCredentials:
    """Returns credentials for calls to siblings with this service's own certificate."""
    return grpc.ssl_channel_credentials(
        root_certificates=settings.ca_path.read_bytes(),
        private_key=settings.private_key_path.read_bytes(),
        certificate_chain=settings.certificate_path.read_bytes(),
    )
