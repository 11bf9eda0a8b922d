#!/usr/bin/env bash
# A cluster of a head and two workers on this machine, to rehearse what a real one does:
#   cluster/local.sh                    starts it, says how to reach it, stops it at Ctrl-C
#   cluster/local.sh COMMAND [ARG...]   starts it, runs the command with it, stops it
# e.g. cluster/local.sh ray job submit --working-dir . -- python -m jobs.infer --images ... --output ...
# Everything of it is its own: free ports, a random token, a temporary folder. It stops what it started,
# by process group, and nothing else (never `ray stop`, which ends every Ray on the machine).
set -euo pipefail

python=${PYTHON:-python3}
workers=${WORKERS:-2}         # raylets beside the head
cpus=${CPUS_PER_WORKER:-1}    # what each of them offers
folder=$(mktemp -d /tmp/denoise-XXXXXX) # a short path: sockets lie below it
groups=()

stop() {
    trap '' INT TERM
    for node in "${groups[@]}"; do # each ends its own processes; what it leaves is killed
        kill -TERM "$node" 2>/dev/null || true
        for _ in {1..100}; do kill -0 "$node" 2>/dev/null && sleep 0.1 || break; done
        kill -KILL -- "-$node" 2>/dev/null || true
        wait "$node" 2>/dev/null || true
    done
    rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT TERM

free_ports() {
    "$python" -c '
import socket, sys
probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*[probe.getsockname()[1] for probe in probes])' "$1"
}

node() { # NAME FLAG...: a node in a session of its own, waited for; its messages go to a file
    local log="$folder/$1.log"
    setsid "$python" -m ray.scripts.scripts start --block --disable-usage-stats \
        --object-store-memory=500000000 \
        --dashboard-agent-listen-port=0 "${@:2}" >"$log" 2>&1 &
    groups=($! "${groups[@]}") # the head, started first, is stopped last
    for _ in {1..600}; do
        grep -q 'Ray runtime started' "$log" && return
        kill -0 "$!" 2>/dev/null || break
        sleep 0.1
    done
    cat "$log" >&2
    exit 1
}

read -r gcs dashboard client <<<"$(free_ports 3)"
unset RAY_ADDRESS
export RAY_AUTH_MODE=token RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
RAY_AUTH_TOKEN=$("$python" -c 'import secrets; print(secrets.token_hex(32))')
RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard
export RAY_AUTH_TOKEN RAY_API_SERVER_ADDRESS

node head --head --port="$gcs" --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" \
    --ray-client-server-port="$client" --num-cpus=0 --temp-dir="$folder"
address=$(grep -om1 "[0-9.]*:$gcs" "$folder/head.log")
# one after the other: two that start at the same moment may take each other's ports
for ((worker = 1; worker <= workers; worker++)); do
    node "worker$worker" --address="$address" --num-cpus="$cpus"
done

if (($#)); then
    "$@"
else
    cat <<END
A head and $workers workers of $cpus CPU each are up. In another terminal:

  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$RAY_AUTH_TOKEN
  export RAY_API_SERVER_ADDRESS=$RAY_API_SERVER_ADDRESS
  ray job submit --working-dir . -- python -m jobs.infer --images FOLDER --output FOLDER --add-noise 0.1

Ctrl-C stops them.
END
    wait
fi
