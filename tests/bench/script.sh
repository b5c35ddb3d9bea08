#!/usr/bin/env bash
# The work of flower-agent by hand, for starts.py and apps.py beside it: waits for a context, starts
# Flower's containers, waits until they work, says READY=YES at OneGate. No state, no repair, no
# diagnosis, and no launcher: apps write into a /tmp in memory.
#   script.sh superlink|supernode DIRECTORY PREFIX
set -euo pipefail
role=$1 dir=$2 prefix=$3
context=$dir/context.sh.network
while [ ! -r "$context" ]; do sleep 0.01; done

value() { sed -n "s/^$1='\(.*\)'$/\1/p" "$context"; }
gate=$(value ONEGATE_ENDPOINT) vmid=$(value VMID)
token=$(sed -n 's/^export TOKENTXT="\(.*\)"$/\1/p' "$dir/one_env")
health=$(value FLOWER_HEALTH_PORT)
onegate() { curl -sf -H "X-ONEGATE-TOKEN: $token" -H "X-ONEGATE-VMID: $vmid" "$@"; }
put() { onegate -X PUT "$gate/vm" --data-urlencode "data=$1" -d type=1; }
start() {
    docker run -d --name "$prefix-$1" --network host --init --read-only --cap-drop ALL \
        --security-opt no-new-privileges --tmpfs /tmp --tmpfs /app/.flwr:uid=49999,gid=49999 \
        --workdir /tmp -e FLWR_TELEMETRY_ENABLED=0 "${@:2}" >/dev/null
}
nodes() {  # ListNodes of the Control API at $1: an empty message, framed as gRPC does
    printf '\0\0\0\0\0' | curl -s --http2 --cacert "$dir/ca.crt" --data-binary @- -H 'te: trailers' \
        -H 'content-type: application/grpc' "https://$1/flwr.proto.Control/ListNodes" | tr -d '\0'
}

if [ "$role" = superlink ]; then
    fleet=127.0.0.1:$(value FLOWER_FLEET_PORT) control=$(value FLOWER_CONTROL_ADDRESS)
    appio=127.0.0.1:$(value FLOWER_SERVERAPPIO_PORT)
    cd "$dir"
    openssl ecparam -name secp384r1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -days 3650 -subj "/CN=bench" -out ca.crt 2>/dev/null
    openssl ecparam -name prime256v1 -genkey -noout -out server.key
    openssl req -new -key server.key -subj "/CN=bench" -out server.csr 2>/dev/null
    printf 'subjectAltName=IP:127.0.0.1' >san
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 \
        -extfile san -out server.pem 2>/dev/null
    mkdir state
    chown 49999:49999 state server.key
    start superlink -v "$dir/ca.crt:/app/c/ca.crt:ro" -v "$dir/server.pem:/app/c/server.pem:ro" \
        -v "$dir/server.key:/app/c/server.key:ro" -v "$dir/state:/app/state" "$SUPERLINK_IMAGE" \
        --ssl-ca-certfile /app/c/ca.crt --ssl-certfile /app/c/server.pem --ssl-keyfile /app/c/server.key \
        --isolation process --database /app/state/state.db --storage-dir /app/state/ffs \
        --fleet-api-address "$fleet" --control-api-address "$control" \
        --serverappio-api-address "$appio" --health-server-address "127.0.0.1:$health"
    start superexec "$SUPEREXEC_IMAGE" --appio-api-address "$appio" --plugin-type serverapp \
        --insecure --health-server-address "127.0.0.1:$((health + 1))"
    until nodes "$control" >/dev/null; do sleep 0.02; done
    put "FLOWER_STATE=ready
FLOWER_ROLE=superlink
FLOWER_ENDPOINT=$fleet
FLOWER_CA_CERT=$(base64 -w0 ca.crt)
READY=YES"
    exit
fi

link=$(onegate "$gate/service" |
    jq -r '.SERVICE.roles[] | select(.name == "superlink") | .nodes[0].deploy_id')
onegate "$gate/vms/$link" >"$dir/link.json"
fleet=$(jq -r .VM.USER_TEMPLATE.FLOWER_ENDPOINT "$dir/link.json")
jq -r .VM.USER_TEMPLATE.FLOWER_CA_CERT "$dir/link.json" | base64 -d >"$dir/ca.crt"
appio=127.0.0.1:$(value FLOWER_CLIENTAPPIO_PORT)
start supernode -v "$dir/ca.crt:/app/c/ca.crt:ro" "$SUPERNODE_IMAGE" --superlink "$fleet" \
    --root-certificates /app/c/ca.crt --isolation process --clientappio-api-address "$appio" \
    --node-config "${NODE_CONFIG:-partition-id=0 num-partitions=1}" --health-server-address "127.0.0.1:$health"
start superexec "$SUPEREXEC_IMAGE" --appio-api-address "$appio" --plugin-type clientapp \
    --insecure --health-server-address "127.0.0.1:$((health + 1))"
until nodes "$CONTROL_ADDRESS" | grep -aq online; do sleep 0.02; done
put "FLOWER_STATE=ready
READY=YES"
