#!/bin/sh
# Makes an empty cluster from what the official image is told, too, and runs the server with the words that follow.
set -eu
export PGDATA=/var/lib/postgresql/data PATH="/opt/postgres/bin:$PATH"
printf %s "$POSTGRES_PASSWORD" >/tmp/password
initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 --locale=en_US.UTF-8 >/dev/null
rm /tmp/password
echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single postgres >/dev/null
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
