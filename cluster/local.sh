#!/usr/bin/env bash
# A cluster of a head and two workers on this machine, to rehearse what a real one does:
#   cluster/local.sh [--s3] [--gpus N]                    starts it, says how to reach it, stops it at Ctrl-C
#   cluster/local.sh [--s3] [--gpus N] COMMAND [ARG...]   starts it, runs the command with it, stops it
# e.g. cluster/local.sh --s3 ray job submit --working-dir . -- python -m jobs.infer --images ... --output ...
#
# --s3       an S3 server on loopback with the empty bucket s3://rehearsal, in memory (moto, of the dev tools)
# --gpus N   N made-up GPUs on one more worker: Ray schedules as with real ones, torch computes on the CPU
# PYTHON, WORKERS and CPUS_PER_WORKER in the environment: the interpreter, and how many of what.
#
# Everything of it is its own: free ports, a random token, a temporary folder. It stops what it started,
# by process group, and nothing else (never `ray stop`, which ends every Ray on the machine).
set -euo pipefail

python=$(command -v "${PYTHON:-python3}")
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") # not resolved: a .venv's is a link
workers=${WORKERS:-2}         # raylets beside the head
cpus=${CPUS_PER_WORKER:-1}    # what each of them offers
bucket=''
gpus=0
while (($#)); do
    case $1 in
    --s3) bucket=rehearsal && shift ;;
    --gpus) gpus=${2:?--gpus wants a number} && shift 2 ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit ;;
    --*) echo "cluster/local.sh: no flag $1 (--s3, --gpus N)" >&2 && exit 2 ;;
    *) break ;;
    esac
done
folder=$(mktemp -d /tmp/denoise-XXXXXX) # a short path, as the names of nodes: sockets lie below it
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

start() { # NAME SIGN COMMAND...: in a session of its own, until its messages hold a sign
    local log="$folder/$1.log"
    setsid "${@:3}" >"$log" 2>&1 &
    groups=($! "${groups[@]}") # what was started first is stopped last
    for _ in {1..1200}; do
        grep -qs "$2" "$log" && return
        kill -0 "$!" 2>/dev/null || break
        sleep 0.1
    done
    return 1
}

# NAME FLAG...: a node with a folder of its own, as on a cluster: in a shared one each node that unpacks what was
# uploaded deletes it under the feet of the others. On a busy machine Ray gives up after 30 s: once more, then.
node() {
    for _ in 1 2 3; do
        start "$1" 'Ray runtime started' "$python" -m ray.scripts.scripts start --block \
            --disable-usage-stats --object-store-memory=500000000 --dashboard-agent-listen-port=0 \
            --temp-dir="$folder/$1" "${@:2}" && return
        grep -Eq 'timed out during startup|TimedOut' "$folder/$1.log" || break
        kill -KILL -- "-${groups[0]}" 2>/dev/null || true # what the try left would answer the next one
    done
    cat "$folder/$1.log" >&2
    exit 1
}

read -r gcs dashboard client store <<<"$(free_ports 4)"
unset RAY_ADDRESS
PATH=$(dirname "$python"):$PATH # where Ray finds the `python` and the user the `ray` of it
export PATH RAY_AUTH_MODE=token RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
RAY_AUTH_TOKEN=$("$python" -c 'import secrets; print(secrets.token_hex(32))')
RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard
export RAY_AUTH_TOKEN RAY_API_SERVER_ADDRESS

if [[ $bucket ]]; then # before the nodes, which inherit where it is
    start s3 'Running on' "$python" -m moto.server -H 127.0.0.1 -p "$store" || { cat "$folder/s3.log" >&2 && exit 1; }
    export AWS_ENDPOINT_URL=http://127.0.0.1:$store AWS_DEFAULT_REGION=us-east-1
    export AWS_ACCESS_KEY_ID=rehearsal AWS_SECRET_ACCESS_KEY=no-secret-at-all AWS_EC2_METADATA_DISABLED=true
    "$python" -c 'import s3fs, sys; s3fs.S3FileSystem().mkdir(sys.argv[1])' "$bucket"
fi

if ((gpus)); then # before the head, on which drivers run: else they take these GPUs for real ones
    export DENOISE_MADE_UP_GPUS=1
fi
node h --head --port="$gcs" --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" \
    --ray-client-server-port="$client" --num-cpus=0
address=$(grep -om1 "[0-9.]*:$gcs" "$folder/h.log")
# one after the other: two that start at the same moment may take each other's ports
for ((worker = 1; worker <= workers; worker++)); do
    node "$worker" --address="$address" --num-cpus="$cpus" --num-gpus=0
done
if ((gpus)); then
    node g --address="$address" --num-cpus="$cpus" --num-gpus="$gpus"
fi

if (($#)); then
    "$@"
else
    cat <<END
A head and $workers workers of $cpus CPU each are up, with $gpus made-up GPUs. In another terminal:

  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$RAY_AUTH_TOKEN
  export RAY_API_SERVER_ADDRESS=$RAY_API_SERVER_ADDRESS
  ray job submit --working-dir . -- python -m jobs.infer --images FOLDER --output FOLDER --add-noise 0.1
${bucket:+
With --output s3://$bucket/NAME in place of a folder. To look into the bucket from there:

  export AWS_ENDPOINT_URL=$AWS_ENDPOINT_URL AWS_DEFAULT_REGION=us-east-1
  export AWS_ACCESS_KEY_ID=rehearsal AWS_SECRET_ACCESS_KEY=no-secret-at-all
}
Ctrl-C stops them.
END
    wait
fi
