#!/bin/sh
# What counts the shared limits of `make up LIMITS=shared` (ADR 50): `limits.sh check` says what is missing, `limits.sh store FOLDER
# PORT_OFFSET` runs Valkey or Redis, and `limits.sh limits FOLDER PORT_OFFSET` envoyproxy/ratelimit. FOLDER is that of the mesh.
set -eu
cd "$(dirname "$0")/../.."
service=.cache/ratelimit/bin/service_cmd
store=$(command -v valkey-server || command -v redis-server || true)
case $1 in
check)
    test -n "$store" || missing="Valkey or Redis (on Debian and Ubuntu: apt install redis-server)"
    test -x "$service" || missing="${missing:+$missing, and }envoyproxy/ratelimit (make ratelimit builds it; needs Go)"
    test -z "${missing-}" || { echo "The shared limits need $missing." >&2; exit 1; }
    ;;
store)
    exec "$store" --bind 127.0.0.1 --port $((9161 + $3)) --save "" --appendonly no
    ;;
limits)
    # Without its store it would end at once.
    until "$(dirname "$store")/$(basename "$store" -server)-cli" -p $((9161 + $3)) ping >/dev/null 2>&1; do sleep 0.1; done
    set -a
    . envoy/shared_limits/settings.env
    RUNTIME_ROOT=$2/envoy/limits REDIS_URL=127.0.0.1:$((9161 + $3)) DEBUG_PORT=0
    HOST=127.0.0.1 PORT=$((9160 + $3)) GRPC_HOST=127.0.0.1 GRPC_PORT=$((50060 + $3))
    GRPC_SERVER_TLS_CERT=$2/certs/limits.pem GRPC_SERVER_TLS_KEY=$2/certs/limits.key
    GRPC_CLIENT_TLS_CACERT=$2/certs/ca.pem GRPC_CLIENT_TLS_SAN=edge
    exec "$service"
    ;;
esac
