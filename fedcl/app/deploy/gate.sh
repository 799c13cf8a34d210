#!/usr/bin/env bash
# The gate between the SuperLink and the network: nginx, which has to be installed.
set -euo pipefail
umask 077
here="$(cd "$(dirname "$0")" && pwd)"
cd "$here"
mkdir -p tmp
gate=(nginx -p "$here/" -c "$here/nginx.conf" -e "$here/nginx.log")
seen() { cat hospitals.map server.pem | cksum; }

read_at="$(seen)"
"${gate[@]}" -g "daemon off;" &
child=$!
trap 'trap - TERM INT; kill "$child" 2> /dev/null; wait "$child" || true; exit 0' TERM INT
while kill -0 "$child" 2> /dev/null; do
    sleep 2 &
    wait "$!"
    if [ "$(seen)" != "$read_at" ]; then # a hospital has come or gone, or the certificate is new
        read_at="$(seen)"
        "${gate[@]}" -s reload
    fi
    if [ "$(stat -c %s nginx.log)" -gt 10000000 ]; then
        mv nginx.log nginx.log.1
        "${gate[@]}" -s reopen
    fi
done
wait "$child"
