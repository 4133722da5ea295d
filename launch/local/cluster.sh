#!/usr/bin/env bash
# Several Ray nodes on this machine (Linux), to try out a cluster. See README.md.
set -euo pipefail

# A short path: Ray's sockets are below it, and the path of a socket has at most 107 characters.
FOLDER=${FEDRAY_CLUSTER:-/tmp/fedray-cluster-$UID}
PORT=${FEDRAY_CLUSTER_PORT:-6390}
BIN=$(cd "$(dirname "$0")/../.." && pwd)/.venv/bin
export PATH="$BIN:$PATH"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$FOLDER/token" RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS RAY_AUTH_TOKEN

usage() {
    cat >&2 <<END
usage: $0 up NODES [CPUS_EACH [GPUS_EACH]]   start the nodes that are not running; default 2 CPUs each; GPUs are logical
       $0 env            print variables with which fedray finds the cluster: eval "\$($0 env)"
       $0 status         print the running nodes and the output of \`ray status\`
       $0 lose NODE      kill a node and all its processes, like a machine failure; \`up\` restores it
       $0 down           stop the nodes started here, and no other Ray process
END
    exit 2
}

address() { echo "127.0.0.$(($1 + 1))"; }
head_address() { echo "$(address 1):$PORT"; }
nodes() { for file in "$FOLDER"/*.pid; do [ ! -e "$file" ] || basename "$file" .pid; done | sort -n; }
pid_of() { cat "$FOLDER/$1.pid" 2>/dev/null; }

runs() { # node; checks the command line, since another process may have the pid now
    local pid
    pid=$(pid_of "$1") && grep -qsF -- "--temp-dir=$FOLDER/$1" <(2>/dev/null tr '\0' '\n' <"/proc/$pid/cmdline")
}

make_token() {
    (umask 077 && mkdir -p "$FOLDER")
    if [ ! -O "$FOLDER" ] || [ -L "$FOLDER" ]; then
        echo "$FOLDER belongs to another user; set FEDRAY_CLUSTER to a folder of your own." >&2
        exit 2
    fi
    [ -s "$FOLDER/token" ] || (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$FOLDER/token")
}

start() { # node cpus gpus
    local role=(--address="$(head_address)")
    [ "$1" != 1 ] || role=(--head --port="$PORT" --include-dashboard=false)
    # In a session of its own, so that the session id identifies all processes of the node.
    setsid ray start --block "${role[@]}" --node-ip-address="$(address "$1")" --temp-dir="$FOLDER/$1" \
        --num-cpus="$2" --num-gpus="$3" --object-store-memory="${OBJECT_STORE:-1000000000}" \
        </dev/null &>"$FOLDER/$1.log" &
    echo $! >"$FOLDER/$1.pid"
    wait_for_start "$1"
}

wait_for_start() { # node
    for _ in $(seq 120); do
        ! grep -qs "Ray runtime started" "$FOLDER/$1.log" || return 0
        kill -0 "$(pid_of "$1")" 2>/dev/null || break
        sleep 0.5
    done
    echo "node $1 did not start, see $FOLDER/$1.log" >&2
    exit 1
}

up() { # nodes cpus gpus
    make_token
    runs 1 || down # nodes cannot join another head
    for node in $(seq "$1"); do
        runs "$node" || start "$node" "$2" "$3"
    done
    echo "$1 nodes at $(head_address). To use them, run: eval \"\$($0 env)\""
}

print_env() {
    echo "export RAY_ADDRESS=$(head_address) RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$FOLDER/token"
}

status() {
    for node in $(nodes); do
        if runs "$node"; then echo "node $node: $(address "$node"), process $(pid_of "$node")"; else echo "node $node: lost"; fi
    done
    runs 1 || { echo "the cluster is not running"; exit 1; }
    ray status --address "$(head_address)"
}

lose() { ! runs "$1" || pkill -KILL --session "$(pid_of "$1")"; }

down() {
    for node in $(nodes); do ! runs "$node" || kill -TERM "$(pid_of "$node")"; done
    for node in $(nodes); do
        for _ in $(seq 30); do
            runs "$node" || break
            sleep 0.5
        done
        lose "$node"
        rm -f "$FOLDER/$node.pid"
    done
}

require_number() { [[ $1 =~ ^[0-9]+$ ]] || usage; }

case ${1:-} in
up) require_number "${2:-}" && require_number "${3:-2}" && require_number "${4:-0}" && up "$2" "${3:-2}" "${4:-0}" ;;
env) print_env ;;
status) status ;;
lose) require_number "${2:-}" && lose "$2" ;;
down) down ;;
*) usage ;;
esac
