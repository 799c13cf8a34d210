#!/usr/bin/env bash
# The server of the federation: Flower's SuperLink, with TLS, for known hospitals only. It listens
# on this machine alone, since whoever reaches it can start runs; hospitals come through gate.sh.
set -euo pipefail
umask 077 # of patients, and secrets
here="$(cd "$(dirname "$0")" && pwd)"
export FLWR_HOME="$here/flwr" FEDCL_RUNS="$here/runs"
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
export RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
export PATH="{{ programs }}:$PATH"
export MALLOC_MMAP_THRESHOLD_=1000000 # bytes: what weights took is given back to the machine
mkdir -p "$FEDCL_RUNS"
cd "$here"
# Who belongs to it, it is told as soon as it answers; in state.db it remembers that, and its runs.
python3 -P -m fedcl.app.provision "$here" &
# What a refused request has sent, Python keeps until it looks through all that it has: here soon.
superlink="import gc; from flwr.superlink import main; from flwr.superlink.cli import flower_superlink
gc.freeze(); gc.set_threshold(700, 5, 2); flower_superlink()"
exec python3 -P -c "$superlink" --host 127.0.0.1 --port {{ inner }} \
    --ssl-certfile superlink.pem --ssl-keyfile superlink.key --ssl-ca-certfile ca.crt \
    --enable-supernode-auth --database state.db \
    --log-file superlink.log --log-rotation-backup-count 90 # days
