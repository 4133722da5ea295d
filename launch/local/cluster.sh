#!/usr/bin/env bash
# Several Ray nodes on this machine (Linux), to try what a cluster does. See README.md.
set -euo pipefail

# Short: Ray's sockets lie below it, and a socket's path may have 107 characters.
HERE=${FEDRAY_CLUSTER:-/tmp/fedray-cluster-$UID}
PORT=${FEDRAY_CLUSTER_PORT:-6390}
BIN=$(cd "$(dirname "$0")/../.." && pwd)/.venv/bin
export PATH="$BIN:$PATH"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HERE/token" RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS RAY_AUTH_TOKEN

usage() {
    cat >&2 <<END
usage: $0 up NODES [CPUS_EACH [GPUS_EACH]]   start the nodes that do not run; 2 CPUs each, GPUs pretended
       $0 env            print what fedray needs to find the cluster: eval "\$($0 env)"
       $0 status         which nodes run, and what Ray says of them
       $0 lose NODE      kill a node with all its processes, as when a machine is lost; \`up\` brings it back
       $0 down           stop the nodes started here, and nothing else
END
    exit 2
}

address() { echo "127.0.0.$(($1 + 1))"; }
head_address() { echo "$(address 1):$PORT"; }
nodes() { for file in "$HERE"/*.pid; do [ ! -e "$file" ] || basename "$file" .pid; done | sort -n; }
pid_of() { cat "$HERE/$1.pid" 2>/dev/null; }

runs() { # node; a process that has only inherited the number does not count
    local pid
    pid=$(pid_of "$1") && grep -qsF -- "--temp-dir=$HERE/$1" <(2>/dev/null tr '\0' '\n' <"/proc/$pid/cmdline")
}

make_token() {
    (umask 077 && mkdir -p "$HERE")
    if [ ! -O "$HERE" ] || [ -L "$HERE" ]; then
        echo "$HERE belongs to somebody else; set FEDRAY_CLUSTER." >&2
        exit 2
    fi
    [ -s "$HERE/token" ] || (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$HERE/token")
}

start() { # node cpus gpus
    local place=(--address="$(head_address)")
    [ "$1" != 1 ] || place=(--head --port="$PORT" --include-dashboard=false)
    # A session of its own: what belongs to the node is then known by one number.
    setsid ray start --block "${place[@]}" --node-ip-address="$(address "$1")" --temp-dir="$HERE/$1" \
        --num-cpus="$2" --num-gpus="$3" --object-store-memory="${OBJECT_STORE:-1000000000}" \
        </dev/null &>"$HERE/$1.log" &
    echo $! >"$HERE/$1.pid"
    await "$1"
}

await() { # node
    for _ in $(seq 120); do
        ! grep -qs "Ray runtime started" "$HERE/$1.log" || return 0
        kill -0 "$(pid_of "$1")" 2>/dev/null || break
        sleep 0.5
    done
    echo "node $1 did not start: $HERE/$1.log" >&2
    exit 1
}

up() { # nodes cpus gpus
    make_token
    runs 1 || down # nodes that have lost their head are of no use
    for node in $(seq "$1"); do
        runs "$node" || start "$node" "$2" "$3"
    done
    echo "$1 nodes at $(head_address). To use them: eval \"\$($0 env)\""
}

env_of() {
    echo "export RAY_ADDRESS=$(head_address) RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HERE/token"
}

status() {
    for node in $(nodes); do
        if runs "$node"; then echo "node $node: $(address "$node"), process $(pid_of "$node")"; else echo "node $node: lost"; fi
    done
    runs 1 || { echo "no cluster"; exit 1; }
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
        rm -f "$HERE/$node.pid"
    done
}

number() { [[ $1 =~ ^[0-9]+$ ]] || usage; }

case ${1:-} in
up) number "${2:-}" && number "${3:-2}" && number "${4:-0}" && up "$2" "${3:-2}" "${4:-0}" ;;
env) env_of ;;
status) status ;;
lose) number "${2:-}" && lose "$2" ;;
down) down ;;
*) usage ;;
esac
