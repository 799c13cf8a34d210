#!/usr/bin/env bash
# The gate between the SuperLink and the network: nginx, which has to be installed.
set -euo pipefail
umask 077
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$here/tmp"
exec nginx -p "$here/" -c "$here/nginx.conf" -e "$here/nginx.log" -g "daemon off;"
