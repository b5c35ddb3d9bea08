"""How to produce each error code; part of ``docs/errors.md``. Pure.

What begins with "Check a context with" is tried by a test, word for word.
"""

CHECK = "Check a context with "

REPRODUCTION: dict[str, str] = {
    "account.exists": "Twice: `flower-agent accounts add alice --role viewer`.",
    "account.invalid": "`flower-agent accounts add 'a b' --role viewer`",
    "account.missing": "`flower-agent accounts remove nobody`",
    "account.no_gateway": "`flower-agent accounts` on the VM of a SuperNode.",
    "address.ambiguous": "Give a SuperLink two NICs, and remove its default route.",
    "address.two_routes": (
        "Add a second default route without a metric: `ip route add default dev eth1`."
    ),
    "address.unknown": "On a SuperLink set `FLOWER_ADDRESS=ETH7`.",
    "agent.bug": "No way is known: nobody should see this code.",
    "agent.running": "`flower-agent run` while the agent runs.",
    "agent.silent": "In the sandbox: `kill -STOP` an agent, wait two minutes, and run `doctor`.",
    "agent.stopped": "`systemctl stop flower-agent`, then `flower-agent doctor`.",
    "appio.open": (
        f"{CHECK}`FLOWER_ROLE=client`, `TOKEN=YES`, `FLOWER_APPIO_LISTEN=10.0.0.5:9094`."
    ),
    "appio.plaintext": (
        f"{CHECK}`FLOWER_ROLE=superexec`, `TOKEN=YES`, `FLOWER_APPIO_ADDRESS=10.0.0.5:9094`."
    ),
    "clock.skew": "Set the clock of a VM one minute ahead, with clock synchronization stopped.",
    "config.invalid": (
        "`echo 'flower_rounds: 3' > config.yaml; flower-agent check --config config.yaml`"
    ),
    "container.crash_loop": "`docker kill` a container each time it starts again, four times.",
    "container.exited": "`docker kill flower-superlink`",
    "container.foreign": (
        "With the agent stopped: `docker rm -f flower-superlink`, then `docker create "
        "--name flower-superlink flwr/superlink:1.25.0`, and start the agent."
    ),
    "container.paused": "`docker pause flower-superexec`",
    "container.refused": (
        "Before the agent pulls a SuperExec's image, give its name to an image without the "
        "program: `docker tag hello-world flwr/superexec:1.25.0`."
    ),
    "context.malformed": (
        "`echo FLOWER_ROLE=server > c.sh; flower-agent check --context c.sh`: the "
        "quotes are missing."
    ),
    "context.missing": "`flower-agent check --context /nowhere`",
    "context.report_ready": f"{CHECK}`FLOWER_ROLE=server`, `REPORT_READY=YES`.",
    "context.token_lost": "`onevm updateconf VMID FILE` without `-a`.",
    "context.too_large": "`head -c 5M /dev/zero > c.sh; flower-agent check --context c.sh`",
    "context.unreadable": "`flower-agent check` as a user who is not root.",
    "control.database": "Fill the file system of `/var/lib/flower-agent/superlink`.",
    "control.exposed": "Not to be seen any more: HAProxy keeps the Control API off the Fleet port.",
    "control.moved": (
        f"{CHECK}`FLOWER_ROLE=server`, `FLOWER_VERSION=1.42.0`, "
        "`FLOWER_CONTROL_ADDRESS=10.0.0.5:8000`."
    ),
    "control.open": f"{CHECK}`FLOWER_ROLE=server`, `FLOWER_CONTROL_ADDRESS=0.0.0.0:9093`.",
    "control.refused": "`flower-agent nodes unregister 1`: no node has this id.",
    "control.unavailable": "`docker kill flower-superlink; flower-agent nodes`",
    "cpu.old": (
        "Give a SuperNode with `ML_FRAMEWORK=sklearn` the CPU model `qemu64` (`CPU_MODEL`)."
    ),
    "data.filesystem": "On a SuperNode set `FLOWER_DATA=/dev/vdb` to a disk without a file system.",
    "data.missing": "On a SuperNode set `FLOWER_DATA=LABEL=nothing`.",
    "data.refused": (
        "`mount /dev/vdb /mnt` on a SuperNode, then set `FLOWER_DATA=/dev/vdb` there."
    ),
    "data.unreadable": "`mkdir -m 700 /srv/data` on a SuperNode, then set `FLOWER_DATA=/srv/data`.",
    "discover.ambiguous": (
        "Write `FLOWER_ROLE=superlink` and a `FLOWER_ENDPOINT` into the attributes of a "
        "second VM of the service, of another role than the SuperNode's."
    ),
    "discover.no_source": f"{CHECK}`FLOWER_ROLE=client`.",
    "discover.waiting": "Start a SuperNode of a service before its SuperLink.",
    "disk.low": "Fill the file system of `/var/lib/docker`, then `flower-agent doctor`.",
    "docker.busy": "`docker load` a large image with Docker 29, and start the agent at once.",
    "docker.down": "`systemctl stop docker docker.socket`",
    "docker.live_restore": (
        "Set `live-restore` to false in Docker's configuration, then `flower-agent doctor`."
    ),
    "docker.refused": (
        "`docker rm -f` a container in the instant in which the agent reads its log: rare, and "
        "gone with the next cycle."
    ),
    "endpoint.expired": "Set the clock of a SuperNode eleven years ahead.",
    "endpoint.not_flower": (
        "On a SuperNode set `FLOWER_SERVER_ADDRESS` to a TLS server without HTTP/2."
    ),
    "endpoint.plaintext": (
        "On a SuperNode with TLS set `FLOWER_SERVER_ADDRESS` to a port without TLS, such as 22."
    ),
    "endpoint.refused": "On a SuperNode set `FLOWER_SERVER_ADDRESS` to a closed port.",
    "endpoint.timeout": "Drop the Fleet port in a firewall between the VMs.",
    "endpoint.unknown_host": "On a SuperNode set `FLOWER_SERVER_ADDRESS=superlink.invalid`.",
    "endpoint.untrusted": "On a SuperNode set `TLS_CA_CERT` to another CA than the SuperLink's.",
    "endpoint.wrong_name": (
        "On a SuperNode set `FLOWER_SERVER_ADDRESS` to a name that the SuperLink's certificate "
        "lacks."
    ),
    "enrol.key_changed": (
        "Stop a SuperNode, clear its `/var/lib/flower-agent/keys`, and start it."
    ),
    "enrol.key_damaged": (
        "Stop a SuperNode's agent and container, `: > /var/lib/flower-agent/keys/node-VMID.key`, "
        "and start the agent."
    ),
    "enrol.key_invalid": (
        "Create a key with `openssl ecparam -name secp384r1 -genkey`, which is not in OpenSSH "
        "form, and check a context with its base64 in `FLOWER_NODE_PRIVATE_KEY`."
    ),
    "enrol.key_refused": "`flower-agent nodes register nonsense`",
    "enrol.key_spent": "`flower-agent nodes unregister NODE`, then `register` with its key.",
    "enrol.mismatch": "Set `FLOWER_NODE_AUTH=NO` on one SuperNode of a service.",
    "enrol.stranger": (
        "From another VM of the service, write `FLOWER_ROLE=x` to a SuperNode's VM while it boots."
    ),
    "enrol.waiting": "Start a SuperNode outside the service with `FLOWER_NODE_AUTH=YES`.",
    "env.reserved": f"{CHECK}`FLOWER_ROLE=server`, `FLOWER_ENV_LD_PRELOAD=/tmp/evil.so`.",
    "firewall.drops": (
        "On a SuperLink: `systemctl start firewalld` before its SuperNodes boot. Wait two "
        "minutes, or run `flower-agent doctor` at once."
    ),
    "gateway.agent_away": "`systemctl stop flower-agent`, then `curl` an address of `flwr pull`.",
    "gateway.config": "`echo > /run/flower-agent/gateway/gateway.json`",
    "gateway.database": "Fill the file system of `/var/lib/flower-agent`, then run `flwr login`.",
    "gateway.address": (
        "With `FLOWER_GATEWAY=YES` set `FLOWER_GATEWAY_ADDRESS=192.0.2.1:9443`, which the VM does "
        "not have."
    ),
    "gateway.down": "With `FLOWER_GATEWAY=YES`: `systemctl stop flower-gateway.service`.",
    "gpu.cdi_stale": "Upgrade the NVIDIA driver and leave `/etc/cdi/nvidia.yaml` as it is.",
    "gpu.inforom": "A GPU with a damaged infoROM; not tried.",
    "gpu.mig_empty": "`nvidia-smi -mig 1` without an instance, with `GPU_ENABLED=YES`.",
    "gpu.mismatch": "Upgrade the driver's packages without a reboot.",
    "gpu.no_driver": "Pass a GPU through to an image without the driver, with `GPU_ENABLED=YES`.",
    "gpu.no_toolkit": "Remove `nvidia-container-toolkit` from the image, with `GPU_ENABLED=YES`.",
    "gpu.none": "Set `GPU_ENABLED=YES` on a SuperNode without a GPU.",
    "gpu.not_configured": (
        "Remove the runtime `nvidia` from `/etc/docker/daemon.json`, and restart Docker."
    ),
    "gpu.not_in_container": (
        "`systemctl daemon-reload` on a VM whose Docker uses systemd's cgroups and the "
        "toolkit without CDI."
    ),
    "gpu.unusable": "Remove the GPU from the VM's bus while the driver is loaded.",
    "health.not_serving": (
        "`kill -STOP PID` of Flower's program; `docker top flower-superlink` shows the PID."
    ),
    "image.architecture": (
        "Set `FLOWER_VERSION` on an arm64 VM to a tag that exists only for amd64."
    ),
    "image.build": (
        "Set `ML_FRAMEWORK=pytorch` on a VM without that image and without access to a package "
        "index."
    ),
    "image.cpu_builds": (
        "Set `TORCH_CPU_INDEX_URL=http://127.0.0.1:9` in a drop-in of the unit, and "
        "`CUSTOM_APP_REPO` to an app that needs `torch`."
    ),
    "image.denied": "Set `FLOWER_VERSION` to a tag that the registry does not have.",
    "image.framework": (
        "Set `FLOWER_IMAGE_PREFIX` to your own images with a Python version that has no lock "
        "file, and `ML_FRAMEWORK=sklearn`."
    ),
    "image.pull": "Set `FLOWER_IMAGE_PREFIX=registry.invalid/flwr`.",
    "memory.low": "Let a program use the VM's memory, then run `flower-agent doctor`.",
    "nic.mtu": "`ip link set eth0 mtu 9000` where `ETH0_MTU=1500`, then `flower-agent doctor`.",
    "node.degraded": "`docker pause flower-supernode` on a node's VM, and wait some minutes.",
    "node.image": (
        "Set `CUSTOM_APP_REPO` to an app that needs wandb, on a node without a package index."
    ),
    "node.offline": "`onevm poweroff` a SuperNode's VM, and wait a minute.",
    "oidc.refused": "Sign in through the provider, and refuse its question.",
    "oidc.unusable": "Set `FLOWER_OIDC_ISSUER=https://127.0.0.1:1`, and sign in.",
    "onegate.down": "Stop the OneGate service of the cloud.",
    "onegate.garbage": "Put a web server at `ONEGATE_ENDPOINT`.",
    "onegate.no_service": (
        "Start a SuperNode outside OneFlow, with `TOKEN=YES` and without an address."
    ),
    "onegate.overwritten": (
        "`onevm update` the SuperLink's `FLOWER_ENDPOINT` to something else, and wait five minutes."
    ),
    "onegate.refused": "Stop oned, and leave OneGate running.",
    "partition.default": (
        "Start a SuperNode outside OneFlow, with `FLOWER_SERVER_ADDRESS` and `TLS_CA_CERT`."
    ),
    "partition.none_free": "`FLOWER_PARTITIONS=1` on the SuperLink of two SuperNodes.",
    "partition.waiting": "`FLOWER_PARTITIONS=2`, and look at a SuperNode in the moment it boots.",
    "partition.gaps": "`oneflow scale SERVICE supernode 1` where there are two, and wait a minute.",
    "peer.clock": "Set the clock of a SuperNode ten seconds ahead, and restart its container.",
    "peer.ghost": "`docker kill flower-supernode` on a VM with a node key.",
    "peer.lost": "Stop the SuperLink's container and its agent.",
    "peer.mtu": "On a host between two VMs with MTU 1500: `ip link set BRIDGE mtu 1400`.",
    "peer.mute": "`docker pause flower-superlink`, and wait half a minute.",
    "peer.waiting": "The same before a SuperNode has connected for the first time.",
    "proxy.down": "With Flower 1.42 on a SuperLink: `systemctl stop flower-proxy.service`.",
    "proxy.missing": "`apt-get remove haproxy` on a SuperLink with Flower 1.42.",
    "proxy.no_answer": (
        "With Flower 1.42 write another CA into `/run/flower-agent/proxy/superlink-ca.crt`, then "
        "`systemctl reload flower-proxy`: HAProxy trusts the SuperLink no more."
    ),
    "port.taken": "With the agent stopped and its containers gone: `nc -l 9092`, and start it.",
    "ready.timeout": "`FLOWER_READY_TIMEOUT=10` on a SuperNode without a SuperLink.",
    "record.damaged": (
        "Change a letter in `/var/lib/flower-agent/audit.jsonl`: `flower-agent audit --verify`"
    ),
    "record.unwritable": (
        "`rm /var/lib/flower-agent/audit.jsonl; mkdir /var/lib/flower-agent/audit.jsonl`, then "
        "change a variable."
    ),
    "run.active": "`flower-agent runs delete RUN` during the run.",
    "run.build": (
        "In the app of `CUSTOM_APP_REPO`, set `serverapp` to a module that does not exist."
    ),
    "run.client_died": "Submit an app whose ClientApp calls `os._exit(7)`.",
    "run.client_failed": "Submit an app whose ClientApp raises an exception on one node.",
    "run.clients_failed": "As for `run.client_failed`: look at the SuperLink after the run.",
    "run.clone": "Set `CUSTOM_APP_REPO=https://nowhere.invalid/app` on a SuperLink.",
    "run.config": "Set `FL_CONFIG_LOCAL_EPOCHS=many` for the app of `contrib/app`.",
    "run.denied": "Set `CUSTOM_APP_REPO` to a repository that its host does not have.",
    "run.dependency": "Add `torch` to the dependencies of an app; leave `ML_FRAMEWORK` empty.",
    "run.failed": "Set `FL_STRATEGY=FedNone` for the app of `contrib/app`.",
    "run.launch_unknown": "Use images of a Flower that has no `BaseExecPlugin.launch_task`.",
    "run.lost": "During a run, remove the SuperLink's database and its container.",
    "run.message_lost": (
        "In the SuperLink's image, raise an exception in `pull_object` of the Fleet API."
    ),
    "run.moved": "Push to the branch in `CUSTOM_APP_REPO` after its run.",
    "run.no_app": "Set `CUSTOM_APP_REPO` to a repository without a `pyproject.toml`.",
    "run.no_outputs": "`flower-agent runs fetch RUN no-such-file`",
    "run.no_git": "Remove git from a SuperLink with `CUSTOM_APP_REPO`.",
    "run.no_ref": "Set `CUSTOM_APP_REPO` to a branch that the repository does not have.",
    "run.outputs": "Remove the image of the SuperExec during a run.",
    "run.refused": (
        "Not seen with a known Flower version: a newer one may refuse the agent's request."
    ),
    "run.stalled": "Pause the SuperExec of a node during a run: `docker pause`.",
    "run.too_large": "Commit a file `data.json` of 40 MiB to the app of `CUSTOM_APP_REPO`.",
    "run.unknown": "`flower-agent runs show 7`",
    "run.unread": "Set `FL_CONFIG_COLOUR=blue` for the app of `contrib/app`.",
    "setting.conflict": (
        f"{CHECK}`FLOWER_ROLE=server`, `TLS_ENABLED=YES`, `ONEAPP_TLS_ENABLED=NO`."
    ),
    "setting.invalid": f"{CHECK}`FLOWER_ROLE=server`, `FLOWER_FLEET_PORT=99999`.",
    "setting.missing": f"{CHECK}`FLOWER_VERSION=1.25.0`.",
    "setting.near_miss": f"{CHECK}`FLOWER_ROLE=server`, `FLOWR_VERSION=1.30.0`.",
    "setting.no_effect": (
        f"{CHECK}`FLOWER_ROLE=server`, `ML_FRAMEWORK=sklearn`, `FLOWER_ISOLATION=subprocess`."
    ),
    "state.beneath_mount": (
        "Run a SuperLink without `FLOWER_STATE_DISK`, set it to an empty disk, and reboot the VM."
    ),
    "state.disk_changed": (
        "On a SuperLink with `FLOWER_STATE_DISK=/dev/vdb` set `FLOWER_STATE_DISK=/dev/vdc`."
    ),
    "state.disk_failed": (
        "Rename `/usr/lib/systemd/systemd-makefs`, and boot a SuperLink with an empty "
        "`FLOWER_STATE_DISK`."
    ),
    "state.disk_missing": "Boot a SuperLink with `FLOWER_STATE_DISK=/dev/vdz`.",
    "state.disk_refused": (
        "`mkfs.ext4 /dev/vdb`, then boot a SuperLink with `FLOWER_STATE_DISK=/dev/vdb`."
    ),
    "state.corrupt": "Write nonsense into `/usr/share/flower-agent/images.lock`.",
    "state.other_vm": "Clone the disk of a VM that has run, and start another VM from the clone.",
    "state.unwritable": "Mount `/var/lib/flower-agent` read-only.",
    "superexec.detached": (
        "On a SuperLink: `iptables -A OUTPUT -o lo -p tcp --dport 9091 -j REJECT`, then "
        "`docker restart flower-superexec`."
    ),
    "template.context": (
        "Check a VM template whose CONTEXT has no TOKEN: `flower-agent check --template FILE`"
    ),
    "template.malformed": "`echo '{' > t; flower-agent check --template t`",
    "template.role": "Check a service template with a role `flower-server`.",
    "template.value": 'Check a VM template with `START_SCRIPT = "echo $(id)"` in its CONTEXT.',
    "tls.ca_changed": "`flower-agent reset` on the SuperLink, and start it again.",
    "tls.ca_lost": (
        "Write nonsense into `/var/lib/flower-agent/tls/ca/ca.pem`, and let the agent issue a "
        "certificate: `flower-agent tls renew`."
    ),
    "tls.chain": "Set `TLS_CERT` and `TLS_KEY` from one CA and `TLS_CA_CERT` from another.",
    "tls.disabled": f"{CHECK}`FLOWER_ROLE=server`, `TLS_ENABLED=NO`.",
    "tls.expired": "Set a `TLS_CERT` that has expired.",
    "tls.expires_soon": "Set a `TLS_CERT` that expires within a month.",
    "tls.fingerprint": (
        "On a SuperNode set `FLOWER_CA_FINGERPRINT` to the fingerprint of another CA."
    ),
    "tls.key_mismatch": "Set `TLS_KEY` and `TLS_CERT` from different pairs.",
    "tls.loopback": "Set a `TLS_CERT` that does not name 127.0.0.1.",
    "tls.mismatch": "Set `TLS_ENABLED=NO` on a SuperNode only.",
    "tls.not_covered": "Set a `TLS_CERT` that does not name the SuperLink's address.",
    "tls.not_own": "`flower-agent tls renew` where `TLS_CERT` is set.",
    "trust.nodes_refuse": (
        "`onevm terminate --hard` the SuperLink's VM of a service, and let OneFlow make another."
    ),
    "version.downgrade": "Set an older `FLOWER_VERSION` on a SuperLink that has worked.",
    "version.failed": "Set `FLOWER_VERSION` on a SuperLink to a version that no registry has.",
    "version.follows": "Set a newer `FLOWER_VERSION` on a SuperNode only.",
    "version.mixed": "Set `FLOWER_VERSION` on one role of a service only.",
    "version.newer": (
        f"{CHECK}`FLOWER_ROLE=server`, `FLOWER_VERSION=1.99.0`, "
        "`FLOWER_CONTROL_ADDRESS=10.0.0.5:8000`."
    ),
}
