#!/usr/bin/env bash
# Hospital {{ site }}. Say in data="" where its data lie, if in files.
data=""
# Which code answers: "installed", that of this machine, in a process that stays; or "brought", that
# which a run brings along, in a process for every call, as Flower's SuperNode does it.
code="installed"
set -euo pipefail
umask 077 # of patients, and secrets
here="$(cd "$(dirname "$0")" && pwd)"
export FLWR_HOME="$here/flwr"
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
export RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
export PATH="{{ programs }}:$PATH"
mkdir -p "$here/state"
cd "$here"
node="site='{{ site }}' state-path='$here/state'${data:+ data-path='$data'}"
server=(--superlink {{ host }}:{{ port }})
if [ "$code" = installed ]; then
    program=(fedcl hospital "$here" "${server[@]}" --node-config "$node")
else
    run="import os; from flwr.supernode.cli import flower_supernode as run; run(); os._exit(1)"
    program=(python3 -P -c "$run" "${server[@]}" --root-certificates ca.crt
        --auth-supernode-private-key key --host 127.0.0.1 --port {{ own_port }}
        --node-config "$node")
fi

# For a server that is away the program waits, however long. Where it gives up instead, it ends (left
# to itself, Flower's would stay without a connection): then it is started again, until the server
# lets it in.
trap 'trap - TERM INT; kill "$child" 2> /dev/null; wait "$child" || true; exit 0' TERM INT
while true; do
    "${program[@]}" &
    child=$!
    wait "$child" || true
    echo "fedcl: it has ended, as said above; once more in 15 seconds. A hospital that was"
    echo "fedcl: cut off is let in after a minute, one whose key is not registered when it is."
    sleep 15 &
    child=$!
    wait "$child" || true
done
