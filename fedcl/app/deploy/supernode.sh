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
if [ "$code" = installed ]; then
    exec fedcl hospital "$here" --superlink {{ host }}:{{ port }} --node-config "$node"
fi
exec flower-supernode --superlink {{ host }}:{{ port }} --root-certificates ca.crt \
    --auth-supernode-private-key key --host 127.0.0.1 --port {{ own_port }} --node-config "$node"
