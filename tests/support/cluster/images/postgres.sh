#!/bin/sh
# The entry point of the test cluster's PostgreSQL, which Debian's files make: understands what k8s/trial/ says to the
# official image.
set -eu
B=/usr/lib/postgresql/15/bin
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    $B/initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" --auth scram-sha-256 --encoding UTF8 --locale C
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    $B/postgres --single -D "$PGDATA" postgres <<SQL
CREATE DATABASE "$POSTGRES_DB"
SQL
fi
exec $B/postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
