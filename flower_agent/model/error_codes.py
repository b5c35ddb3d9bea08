"""Every error code with its meaning and remedy; ``docs/errors.md`` is generated from it.

Codes are public: they are added to, never renamed. One table, so longer than a module should be.
"""

CATALOGUE: dict[str, tuple[str, str]] = {
    "account.exists": (
        "There is a local account of this name already.",
        "Choose another name, or: flower-agent accounts passwd NAME",
    ),
    "account.invalid": (
        "The name, role or password of a local account is not acceptable.",
        "Do what the message says. Nothing was changed.",
    ),
    "account.missing": (
        "There is no local account of this name.",
        "flower-agent accounts list shows the accounts.",
    ),
    "account.no_gateway": (
        "This VM has no gateway, so there are no accounts.",
        "Set FLOWER_GATEWAY=YES in the SuperLink's context, and run the command on its VM.",
    ),
    "address.ambiguous": (
        "The VM has several addresses and no default route, so the agent cannot choose one.",
        "Set FLOWER_ADDRESS to one of the listed addresses, or to ETHn.",
    ),
    "address.two_routes": (
        "Two NICs have default routes with the same metric, so the choice between them is random.",
        "Set FLOWER_ADDRESS=ETHn, or give one of the NICs another ETHn_METRIC.",
    ),
    "address.unknown": (
        "FLOWER_ADDRESS names an address or a NIC that this VM does not have.",
        "Set FLOWER_ADDRESS to an address of this VM or to ETHn of its context.",
    ),
    "agent.bug": (
        "The agent met an unexpected error. The containers stay as they are.",
        (
            "Flower continues to run. Report the error with the traceback: journalctl -u "
            "flower-agent -n 200"
        ),
    ),
    "agent.running": (
        "Another agent process with this root or name runs and owns the containers.",
        "Stop that agent first: systemctl stop flower-agent",
    ),
    "agent.silent": (
        "The agent runs, but its status is old or unknown. The agent may hang.",
        (
            "systemctl status flower-agent; then: systemctl restart flower-agent. The containers "
            "continue to run."
        ),
    ),
    "agent.stopped": (
        "No agent runs on this VM, so nothing starts, watches or reports Flower.",
        "systemctl start flower-agent; journalctl -u flower-agent",
    ),
    "appio.open": (
        (
            "An AppIo listens beyond loopback without TLS. Anybody who reaches the AppIo can act "
            "as an app."
        ),
        "Limit the port to the SuperExec's address: use a firewall or a separate network.",
    ),
    "appio.plaintext": (
        "This SuperExec reaches its AppIo without TLS. Apps and models travel unencrypted.",
        "Use Flower 1.30 or newer with TLS_ENABLED=YES, or a separate network for the two VMs.",
    ),
    "clock.skew": (
        "This VM's clock differs from OneGate's by more than Flower accepts between two VMs.",
        (
            "Synchronize the clock (timedatectl) with chrony or systemd-timesyncd. No container "
            "restarts."
        ),
    ),
    "config.invalid": (
        "/etc/flower-agent/config.yaml is not a mapping of known names to values.",
        "Write one `name: value` per line, with names in lower case. Then run: flower-agent check",
    ),
    "container.crash_loop": (
        "A container ends again and again. The agent waits longer before each restart.",
        (
            "Read the container's last lines: flower-agent logs. The agent tries again at the "
            "time in the message."
        ),
    ),
    "container.exited": (
        "A container that should run has ended. The agent starts the container again.",
        "Read the SuperNode's last lines: flower-agent logs",
    ),
    "container.foreign": (
        (
            "A container has the agent's name but not its label, so the agent does not touch the "
            "container."
        ),
        (
            "Rename the container: docker rename NAME NAME-old. Then the agent creates its own. "
            "Find the owner of the old container before you remove it."
        ),
    ),
    "container.paused": (
        "Somebody paused a container. No app can run until the container continues.",
        "docker unpause NAME",
    ),
    "container.refused": (
        "Docker refused to create or start a container.",
        (
            "Read Docker's reason in the message, and: journalctl -u docker -n 50. The agent "
            "tries again."
        ),
    ),
    "context.malformed": (
        "The context file does not have the form that OpenNebula writes.",
        "Write NAME='value', one per line, as OpenNebula does. Look at the line in the message.",
    ),
    "context.unreadable": (
        "The context exists, but this user cannot read it. Only root can.",
        "Run the command as root.",
    ),
    "context.missing": (
        "There is no context in /run/one-context.",
        "Attach a CONTEXT section to the VM template, and check that one-context is installed.",
    ),
    "context.report_ready": (
        "REPORT_READY is set: one-context reports READY when its scripts end, before Flower works.",
        "Remove REPORT_READY from the CONTEXT. The agent reports READY itself.",
    ),
    "context.token_lost": (
        (
            "The context lost TOKEN, VMID or ONEGATE_ENDPOINT. The agent keeps the last values of "
            "this boot."
        ),
        "Use `onevm updateconf` with -a (append), or add TOKEN=YES to the CONTEXT again.",
    ),
    "context.too_large": (
        "The context file is larger than any context that OpenNebula writes.",
        "Remove large values from the CONTEXT.",
    ),
    "control.database": (
        "The SuperLink serves, but cannot use its database, so it cannot record nodes and runs.",
        (
            "On the SuperLink's VM: df -h /var/lib/flower-agent/superlink; ls -la "
            "/var/lib/flower-agent/superlink (group 49999, writable); findmnt -T "
            "/var/lib/flower-agent. Do not remove any file there."
        ),
    ),
    "control.exposed": (
        "Not raised any more: HAProxy keeps the Control API off the Fleet port from 1.40 on.",
        "Nothing is to be done.",
    ),
    "control.moved": (
        "FLOWER_CONTROL_ADDRESS has the Fleet port, as former agents asked from Flower 1.40 on.",
        "Leave FLOWER_CONTROL_ADDRESS empty: HAProxy has that port, and keeps the Control API off.",
    ),
    "control.open": (
        "The Control API listens beyond loopback. Flower does not authenticate its clients.",
        "Leave FLOWER_CONTROL_ADDRESS empty, and reach the Control API through an SSH tunnel.",
    ),
    "control.refused": (
        "The SuperLink's Control API refused a request.",
        "Read the SuperLink's reason in the message.",
    ),
    "control.unavailable": (
        "The SuperLink's Control API does not answer.",
        "Read the SuperLink's last lines: flower-agent logs superlink",
    ),
    "cpu.old": (
        (
            "The CPU model lacks instructions that NumPy or the framework needs, so apps end at "
            "the import."
        ),
        'Set CPU_MODEL=[MODEL="host-passthrough"] in the VM template.',
    ),
    "data.filesystem": (
        "The disk or server in FLOWER_DATA has no file system that this VM's kernel can mount.",
        (
            "Name the file system's type: FLOWER_DATA=LABEL=x,type=xfs. Look at the disk: lsblk "
            "-f. Format an empty disk only: mkfs.ext4 -L LABEL DEVICE"
        ),
    ),
    "data.missing": (
        "The directory, disk, server or export in FLOWER_DATA does not exist or does not answer.",
        (
            "Attach the disk, start the server or create the directory. The agent checks again by "
            "itself."
        ),
    ),
    "data.refused": (
        "Docker cannot mount the data of FLOWER_DATA.",
        "Read Docker's reason in the message. An NFS server must export to this VM: exports(5).",
    ),
    "data.unreadable": (
        "Flower's user 49999 cannot read the data for apps.",
        (
            "On the machine that stores the data: chgrp -R 49999 DIRECTORY && chmod -R g+rX "
            "DIRECTORY; if everybody may read the data: chmod -R a+rX DIRECTORY"
        ),
    ),
    "discover.ambiguous": (
        "More than one VM of the service claims to be the SuperLink.",
        "Find the wrong one (onevm show ID), or set FLOWER_SERVER_ADDRESS and TLS_CA_CERT.",
    ),
    "discover.no_source": (
        "The VM cannot find its SuperLink or the SuperLink's CA.",
        (
            "Set FLOWER_SERVER_ADDRESS and TLS_CA_CERT, or run the VM in a OneFlow service with "
            "TOKEN=YES."
        ),
    ),
    "discover.waiting": (
        "The SuperLink has not published its endpoint and CA yet.",
        "Check the SuperLink's VM: flower-agent status",
    ),
    "disk.low": (
        "A file system has too little free space for the agent or Docker.",
        (
            "Find large files first: df -h; docker system df; journalctl --disk-usage. Then "
            "enlarge the disk, or remove files outside /var/lib/flower-agent."
        ),
    ),
    "docker.busy": (
        "Docker needs longer than usual to create or start a container. The agent waits.",
        (
            "Wait at first: Docker unpacks images after `docker load`. If that does not help: "
            "journalctl -u docker"
        ),
    ),
    "docker.down": (
        "The Docker Engine does not answer.",
        "systemctl status docker; journalctl -u docker -n 50; then: systemctl start docker",
    ),
    "docker.live_restore": (
        "Containers end when Docker restarts, because live-restore is off.",
        (
            'Put "live-restore": true into /etc/docker/daemon.json. Then run, without any '
            "restart: systemctl reload docker"
        ),
    ),
    "docker.refused": (
        "The Docker Engine refused a request.",
        "Read Docker's reason in the message, and: journalctl -u docker",
    ),
    "endpoint.expired": (
        "The certificate at the endpoint is not valid at this VM's time.",
        "Compare the clocks (timedatectl) and the dates of the SuperLink's certificate.",
    ),
    "endpoint.not_flower": (
        "A server answers at the endpoint, but it is not a Flower API.",
        "Check the port: FLOWER_SERVER_ADDRESS, FLOWER_FLEET_PORT.",
    ),
    "endpoint.plaintext": (
        "The endpoint does not use TLS, but this VM requires TLS.",
        "Check the port in FLOWER_SERVER_ADDRESS. Set TLS_ENABLED to the same value on every VM.",
    ),
    "endpoint.refused": (
        "Nothing listens at the endpoint.",
        (
            "On the SuperLink's VM: flower-agent status. If FLOWER_SERVER_ADDRESS is set, check "
            "its value."
        ),
    ),
    "endpoint.timeout": (
        "The endpoint does not answer.",
        "Check routes and firewalls between the VMs. On both VMs: flower-agent doctor",
    ),
    "endpoint.unknown_host": (
        "The endpoint's name cannot be resolved.",
        "Check DNS on this VM, or use an IP address.",
    ),
    "endpoint.untrusted": (
        "The trusted CA did not issue the certificate at the endpoint.",
        "Compare the CA's fingerprint on both VMs: flower-agent tls show",
    ),
    "endpoint.wrong_name": (
        "The certificate at the endpoint does not contain the address that this VM connects to.",
        (
            "On the SuperLink set FLOWER_TLS_SANS or FLOWER_PUBLIC_ADDRESS to the address that "
            "nodes connect to."
        ),
    ),
    "enrol.key_changed": (
        (
            "A VM publishes another node key than its first one. The SuperLink keeps the first "
            "key and refuses the new one."
        ),
        (
            "Was that VM recreated, or has it lost its key? Check its flower-agent status. Only "
            "if so: flower-agent nodes list, then flower-agent nodes unregister NODE with the id "
            "of its old node. Otherwise another VM of the service wrote the key: do nothing here."
        ),
    ),
    "enrol.key_damaged": (
        "The node key's file was damaged. The SuperLink does not accept the new key by itself.",
        (
            "Restore the key file in the message from a backup; the agent then uses it. Without a "
            "backup, on the SuperLink's VM: flower-agent nodes list, then flower-agent nodes "
            "unregister NODE with the id of this VM's old node."
        ),
    ),
    "enrol.key_invalid": (
        "The private key in the settings is not an EC key in OpenSSH form.",
        "Create one with: ssh-keygen -t ecdsa -b 384 -N ''",
    ),
    "enrol.key_refused": (
        "The SuperLink cannot register a node key.",
        "Read the reason in the message. Check the SuperNode's VM: flower-agent status",
    ),
    "enrol.key_spent": (
        "A key was unregistered. Flower never accepts that key again.",
        "Give that SuperNode a new key, and replace the old public key with the new one.",
    ),
    "enrol.mismatch": (
        "SuperNode authentication is on at one end and off at the other.",
        "Set FLOWER_NODE_AUTH to the same value on every VM of the federation, or leave it empty.",
    ),
    "enrol.stranger": (
        (
            "A VM of the service publishes a role that does not exist, or a role that differs "
            "from OneFlow's."
        ),
        (
            "Look at the VM's attributes: onevm show ID. Any VM of a service can change the "
            "attributes of the others."
        ),
    ),
    "enrol.waiting": (
        "The SuperLink does not know this node's key.",
        (
            "In a service, the SuperLink's agent registers the key: check the SuperLink's status. "
            "Outside a service set FLOWER_NODE_PUBLIC_KEYS on the SuperLink, or run there: "
            "flower-agent nodes register KEY"
        ),
    ),
    "env.reserved": (
        "A FLOWER_ENV_ variable has a name that the loader, Python, Flower or the agent uses.",
        "Remove the variable; docs/data.md lists the names. Set a proxy with FLOWER_HTTPS_PROXY.",
    ),
    "firewall.drops": (
        (
            "A firewall is active on this VM and no SuperNode connects. The firewall may block "
            "the Fleet port."
        ),
        (
            "Accept the port from the federation's subnet before the rule that drops packets: "
            "/usr/share/doc/flower-agent/examples/fleet-port.nft"
        ),
    ),
    "gateway.agent_away": (
        (
            "The gateway does not reach the agent. Log-ins and runs work; outputs cannot be "
            "pulled, and entries for the record wait."
        ),
        "systemctl status flower-agent",
    ),
    "gateway.config": (
        "The gateway cannot read what the agent wrote about the SuperLink.",
        "systemctl restart flower-agent flower-gateway; journalctl -u flower-gateway",
    ),
    "gateway.database": (
        "The gateway's file of accounts and log-ins cannot be used.",
        "Check the disk: df -h /var/lib/flower-agent. Then: systemctl restart flower-gateway",
    ),
    "gateway.address": (
        "HAProxy cannot listen where the gateway shall be. The federation works without it.",
        (
            "Set FLOWER_GATEWAY_ADDRESS to an address of this VM and a free port from 1024 on. Who "
            "has the port (as root): ss -tlnp"
        ),
    ),
    "gateway.down": (
        "The gateway does not answer, so nobody can log in. The federation works without it.",
        (
            "systemctl status flower-gateway.path flower-gateway.service flower-proxy.service; "
            "journalctl -u flower-gateway -n 20; then: systemctl restart flower-gateway"
        ),
    ),
    "gpu.cdi_stale": (
        "The CDI specification lists files of another driver version than the installed one.",
        (
            "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml. If that does not help, run "
            "between two runs: systemctl restart docker"
        ),
    ),
    "gpu.inforom": (
        "nvidia-smi warns of a damaged infoROM in a GPU (exit 14). The agent still uses the GPU.",
        "Do nothing while apps compute. The GPU's vendor can rewrite the infoROM: nvidia-smi -q",
    ),
    "gpu.mig_empty": (
        "MIG is on and no GPU has a MIG instance, so CUDA finds no GPU.",
        "Create instances (nvidia-smi mig -cgi PROFILE -C), or switch MIG off: nvidia-smi -mig 0",
    ),
    "gpu.mismatch": (
        "The loaded NVIDIA driver and its libraries have different versions after an upgrade.",
        "Reboot the VM between two runs. Exclude the driver's packages from unattended upgrades.",
    ),
    "gpu.no_driver": (
        "The VM has an NVIDIA GPU but no loaded driver.",
        "Install the NVIDIA driver in the image.",
    ),
    "gpu.no_toolkit": (
        "Docker cannot give the GPU to a container: the NVIDIA container toolkit is missing.",
        "Install nvidia-container-toolkit and run: nvidia-ctk runtime configure --runtime=docker",
    ),
    "gpu.none": (
        "GPU_ENABLED=YES, but the VM has no NVIDIA GPU.",
        "Check the PCI passthrough of the VM template, or set GPU_ENABLED=AUTO.",
    ),
    "gpu.not_configured": (
        "The NVIDIA container toolkit is installed, but Docker does not use it.",
        (
            "nvidia-ctk runtime configure --runtime=docker; then, between two runs: systemctl "
            "restart docker"
        ),
    ),
    "gpu.not_in_container": (
        "The container has the GPU, but CUDA does not work inside the container.",
        (
            "Run nvidia-smi on the VM. Between two runs: docker restart NAME, with the name in "
            "the message."
        ),
    ),
    "gpu.unusable": (
        "The NVIDIA driver is loaded, but cannot use the GPU.",
        "Read the driver's messages: dmesg | grep -iE 'nvrm|xid'",
    ),
    "health.not_serving": (
        "A container runs, but its health service does not answer SERVING.",
        "Read the SuperNode's last lines: flower-agent logs",
    ),
    "image.architecture": (
        "The registry has the image, but not for this VM's processor.",
        (
            "Use a FLOWER_VERSION that supports this processor, a VM with another processor, or "
            "your own images: FLOWER_IMAGE_PREFIX."
        ),
    ),
    "image.build": (
        "The agent could not build the image for ML_FRAMEWORK or an app. The agent tries again.",
        (
            "Check that the VM reaches its package index and has free disk space, or build the "
            "image on another machine: flower-agent bake --framework NAME --app URL"
        ),
    ),
    "image.cpu_builds": (
        (
            "The agent found no CPU build of torch or a related package. The image has builds "
            "with CUDA."
        ),
        (
            "Let the VM reach the index of CPU builds, or name an index that the VM reaches: "
            "docs/images.md."
        ),
    ),
    "image.denied": (
        "The registry refuses the image: wrong credentials, or it does not exist.",
        (
            "Check FLOWER_IMAGE_PREFIX, FLOWER_VERSION, FLOWER_REGISTRY_USER and "
            "FLOWER_REGISTRY_PASSWORD. The agent does not use `docker login` on the VM."
        ),
    ),
    "image.framework": (
        "The agent cannot build an image for ML_FRAMEWORK or the app with this Flower version.",
        (
            "Use another FLOWER_VERSION or ML_FRAMEWORK, or change the app's dependencies to "
            "releases that fit."
        ),
    ),
    "image.pull": (
        "Docker could not pull an image. The agent tries again.",
        (
            "Check the network and the registry: flower-agent doctor. An image that is on the VM "
            "needs neither."
        ),
    ),
    "memory.low": (
        "The VM has little free memory. The kernel may soon kill an app or Flower.",
        "Give the VM more memory, or lower FLOWER_MEMORY_LIMIT.",
    ),
    "nic.mtu": (
        "A NIC's packet size differs from the MTU of its virtual network (ETHn_MTU).",
        (
            "Set the NIC to the MTU of its network: ip link set NIC mtu BYTES; or correct MTU of "
            "the virtual network, then run: onevm updateconf."
        ),
    ),
    "node.degraded": (
        "SuperNodes report at OneGate that they do not work, while this SuperLink works.",
        "On the VM in the message: flower-agent status",
    ),
    "node.image": (
        (
            "The image that runs apps on a SuperNode lacks packages that the app of "
            "CUSTOM_APP_REPO needs."
        ),
        (
            "On the VM in the message, flower-agent status shows why (app). Or put them into the "
            "image: flower-agent bake --app"
        ),
    ),
    "node.offline": (
        "SuperNodes that were connected to this SuperLink are offline.",
        (
            "Check that the VM in the message runs (onevm show), and its flower-agent status. If "
            "a node will never return: flower-agent nodes unregister"
        ),
    ),
    "oidc.refused": (
        "A sign-in through the OpenID Connect provider did not succeed.",
        "Try again. The message has the provider's words; the rest is in the provider's log.",
    ),
    "oidc.unusable": (
        "The OpenID Connect provider does not answer as one, so nobody can sign in through it.",
        (
            "Check FLOWER_OIDC_ISSUER with: curl ISSUER/.well-known/openid-configuration. Local "
            "accounts still work."
        ),
    ),
    "onegate.down": (
        "OneGate does not answer. Flower continues; reports wait.",
        "Nothing to do on this VM. Check ONEGATE_ENDPOINT and the OneGate service of the cloud.",
    ),
    "onegate.garbage": (
        "OneGate's answer is not the expected JSON.",
        "Check that ONEGATE_ENDPOINT is a OneGate server and not a proxy.",
    ),
    "onegate.no_service": (
        "OneGate knows no OneFlow service that contains this VM.",
        "Deploy the VM as part of a OneFlow service, or set FLOWER_SERVER_ADDRESS and TLS_CA_CERT.",
    ),
    "onegate.overwritten": (
        (
            "Another VM of the service overwrote the SuperLink's published values. The agent "
            "restores them."
        ),
        (
            "Find the VM that overwrites the values: any VM of a service can change the "
            "attributes of the others."
        ),
    ),
    "onegate.refused": (
        "OneGate refused the request.",
        "A wrong token, an unknown VM and a stopped oned have the same symptom: check the cloud.",
    ),
    "partition.default": (
        (
            "This SuperNode is outside a service and has no partition number, so it uses "
            "partition 0 of 1."
        ),
        "Set FLOWER_NODE_CONFIG to this node's partition-id and num-partitions.",
    ),
    "partition.gaps": (
        "The partitions of the SuperNodes leave a part of the data out, or train on one twice.",
        (
            "OneFlow takes the oldest VM first when it scales down. Set FLOWER_PARTITIONS on the "
            "SuperLink (a node that runs already takes it after: systemctl restart flower-agent), "
            "or FLOWER_NODE_CONFIG with partition-id and num-partitions on the named VMs."
        ),
    ),
    "partition.none_free": (
        "There are more SuperNodes than FLOWER_PARTITIONS, so some wait for an id.",
        (
            "Set a larger FLOWER_PARTITIONS on the SuperLink, or scale the role down. The id of a "
            "VM that left the service is free about ten minutes later."
        ),
    ),
    "partition.waiting": (
        "The SuperLink assigns partitions, and this node has none yet.",
        "Wait: it takes half a minute. If it lasts, on the SuperLink's VM: flower-agent status",
    ),
    "peer.clock": (
        "The SuperLink refuses this VM's clock.",
        (
            "Synchronize the clocks of this VM and of the SuperLink's VM (timedatectl). This VM's "
            "clock may be at most 5 s ahead and 5 min behind."
        ),
    ),
    "peer.ghost": (
        (
            "The SuperLink still counts a killed SuperNode's last connection as active, so it "
            "refuses a new one."
        ),
        "Wait: this takes a minute at most, and the agent tries again by itself.",
    ),
    "peer.mtu": (
        (
            "Small packets reach the peer and large packets do not: a link between the VMs drops "
            "them (MTU)."
        ),
        (
            "Compare `ip link` on both VMs with the MTU of every link between them. Set MTU of "
            "the virtual network (ETHn_MTU) to the smallest value, for every VM."
        ),
    ),
    "peer.mute": (
        "The peer's machine accepts connections, but its Flower does not answer.",
        (
            "On that VM: flower-agent status; docker ps (paused: docker unpause "
            "flower-superlink). No run continues while Flower hangs, so a restart is as safe as "
            "between two runs: docker restart flower-superlink"
        ),
    ),
    "peer.waiting": (
        "The SuperNode has not connected to the SuperLink yet.",
        "Read the SuperNode's last lines: flower-agent logs",
    ),
    "peer.lost": (
        "The SuperNode lost its SuperLink and tries to reconnect.",
        (
            "On the SuperLink's VM: flower-agent status. To check the network between the VMs, on "
            "this VM: flower-agent doctor"
        ),
    ),
    "port.taken": (
        "Another process uses a port that Flower needs.",
        (
            "Find the process as root (ss -tanp), and stop it if you do not need it; or set "
            "another port: FLOWER_FLEET_PORT, FLOWER_SERVERAPPIO_PORT, FLOWER_CLIENTAPPIO_PORT, "
            "FLOWER_HEALTH_PORT."
        ),
    ),
    "proxy.down": (
        "HAProxy does not listen at the Fleet address; the SuperLink behind it works.",
        (
            "systemctl status flower-proxy.path flower-proxy.service; journalctl -u flower-proxy "
            "-n 20. Its file: /run/flower-agent/proxy/haproxy.cfg"
        ),
    ),
    "proxy.missing": (
        "From Flower 1.40 on HAProxy has the Fleet port, and it is not installed.",
        (
            "apt-get install haproxy (Debian, Ubuntu), dnf install haproxy (EL), zypper install "
            "haproxy (openSUSE). It is started by itself."
        ),
    ),
    "proxy.no_answer": (
        "HAProxy takes calls at the Fleet address and gets no answer of the SuperLink behind it.",
        (
            "flower-agent logs superlink. Where that says nothing: journalctl -u flower-proxy -n "
            "20; then, between two runs: docker restart flower-superlink"
        ),
    ),
    "ready.timeout": (
        "The VM was not ready within FLOWER_READY_TIMEOUT. The agent continues to try.",
        "The phase and its error show the reason.",
    ),
    "record.damaged": (
        "The record of who did what is not whole: entries were removed, changed or cut.",
        (
            "Keep a copy of /var/lib/flower-agent/audit*, and compare it with the hashes in the "
            "journal and with a backup: journalctl -u flower-agent --grep record.head"
        ),
    ),
    "record.unwritable": (
        "The agent cannot write its record of who did what; entries wait in memory.",
        (
            "Check the path in the message: df -h PATH; findmnt -T PATH; ls -ld PATH. The agent "
            "tries again every 10 s."
        ),
    ),
    "run.active": (
        "The run has not ended, so its files cannot be removed yet.",
        "Stop the run first: flower-agent stop RUN",
    ),
    "run.build": (
        "Flower cannot build a bundle of the app.",
        "Read flwr's reason in the message. Try `flwr build` in the app's directory.",
    ),
    "run.client_died": (
        (
            "A ClientApp's process ended without an answer. The run waits for the answer until "
            "the time-out."
        ),
        (
            "Read the reason: flower-agent logs superexec. On the SuperLink's VM: flower-agent "
            "stop RUN"
        ),
    ),
    "run.client_failed": (
        "A ClientApp raised an exception. The SuperLink counts a failed reply.",
        "The whole traceback is in: flower-agent logs superexec",
    ),
    "run.clients_failed": (
        "The run finished, but replies of some clients did not count.",
        "To see each round with the reasons: flower-agent runs show RUN",
    ),
    "run.clone": (
        "The agent cannot fetch the app's repository. The agent tries again.",
        "Read git's reason in the message. Check CUSTOM_APP_REPO, network and proxy.",
    ),
    "run.config": (
        "A variable's value does not have the type that the app declares.",
        "Use a value of the type in [tool.flwr.app.config] of the app.",
    ),
    "run.denied": (
        "The app's repository refuses this VM, or does not exist.",
        (
            "Check the path in CUSTOM_APP_REPO. For a private repository, check the user and "
            "token too."
        ),
    ),
    "run.dependency": (
        "The image that runs apps on this VM lacks a package that the app needs.",
        (
            "Use an image that has the package: ML_FRAMEWORK, or FLOWER_IMAGE_PREFIX with your "
            "own images."
        ),
    ),
    "run.failed": (
        "The run failed. The agent does not submit it again.",
        (
            "Read the run's log in /var/lib/flower-agent/runs/. To run the app again: "
            "flower-agent submit"
        ),
    ),
    "run.launch_unknown": (
        (
            "This Flower starts apps in an unknown way. The agent keeps their outputs per "
            "process, not per run."
        ),
        "Use a FLOWER_VERSION that the agent knows, or a newer agent.",
    ),
    "run.lost": (
        "The SuperLink does not know the run any more: it lost its database.",
        "To run the app again: flower-agent submit",
    ),
    "run.message_lost": (
        "A SuperNode lost a message of a run. The run waits for the answer until the time-out.",
        (
            "Read the reason: flower-agent logs supernode. On the SuperLink's VM: flower-agent "
            "stop RUN"
        ),
    ),
    "run.moved": (
        "The branch or tag now points to another commit than the submitted one.",
        "To run the new commit: flower-agent submit",
    ),
    "run.no_app": (
        "The expected directory contains no Flower app.",
        "Name the app's directory: CUSTOM_APP_REPO=URL@ref#subdirectory",
    ),
    "run.no_outputs": (
        "The run left no files, or not the named file.",
        "List the run's files: flower-agent runs show RUN",
    ),
    "run.no_git": (
        "There is no git on this VM.",
        "apt install git, or dnf install git",
    ),
    "run.no_ref": (
        "The repository has no such branch, tag or commit.",
        "Check the text after the @ in CUSTOM_APP_REPO.",
    ),
    "run.outputs": (
        "The agent could not save a run's outputs. The agent tries again each minute.",
        "Read the reason, then: docker info; df -h /var/lib/flower-agent",
    ),
    "run.refused": (
        "The SuperLink refuses the run.",
        "Read the SuperLink's reason in the message.",
    ),
    "run.stalled": (
        "A round takes much longer than the rounds before it. A client may have ended or be slow.",
        "Find a node with a warning: flower-agent nodes. To end the run: flower-agent stop RUN",
    ),
    "run.too_large": (
        "The repository or the app is larger than the agent or Flower allows.",
        "Keep data out of the app's repository. Nodes have their data in data/.",
    ),
    "run.unknown": (
        "This VM has no record of a run with that id.",
        "List the runs: flower-agent runs",
    ),
    "run.unread": (
        "A variable is set that the app does not use.",
        "Remove the variable, or declare its key in [tool.flwr.app.config] of the app.",
    ),
    "setting.conflict": (
        (
            "Two variables contradict each other, or a variable has different values with and "
            "without the prefix ONEAPP_."
        ),
        "Change or remove one of the two.",
    ),
    "setting.invalid": (
        "A variable's value does not have the required form.",
        "Correct the value: onevm updateconf VMID FILE -a",
    ),
    "setting.missing": (
        "A required variable is not set.",
        "Add the variable to the CONTEXT: onevm updateconf VMID FILE -a",
    ),
    "setting.near_miss": (
        "An unknown variable looks like a known one.",
        "Correct the name, or ignore this warning.",
    ),
    "setting.no_effect": (
        "A variable is set that has no effect here.",
        "Remove the variable, or set the variables that it needs.",
    ),
    "state.beneath_mount": (
        (
            "FLOWER_STATE_DISK is mounted over a directory that has a CA of its own: the SuperLink "
            "ran on the VM's own disk before. Nothing beneath the mount is used or deleted."
        ),
        (
            "If the state beneath is the right one, copy it to the disk as docs/operating.md "
            "shows. Otherwise remove it there."
        ),
    ),
    "state.corrupt": (
        "The agent cannot read a file of its state.",
        (
            "Keep a copy of the file in the message. If nothing is lost, the agent creates the "
            "file again; otherwise restore it from a backup."
        ),
    ),
    "state.disk_changed": (
        (
            "FLOWER_STATE_DISK changed while the SuperLink runs. The change is refused until a "
            "reboot: another disk would hide the CA and the database."
        ),
        "Set FLOWER_STATE_DISK as it was, or reboot the VM.",
    ),
    "state.disk_failed": (
        "A program failed that looks at, formats or mounts the disk of FLOWER_STATE_DISK.",
        "Read the program's words: journalctl -u flower-state. The VM tries again.",
    ),
    "state.disk_missing": (
        (
            "The disk of FLOWER_STATE_DISK is not mounted. Until then the SuperLink does not "
            "start, and no new CA is made."
        ),
        (
            "Attach the disk to the VM, or correct FLOWER_STATE_DISK; lsblk -f shows the disks, "
            "journalctl -u flower-state what was tried."
        ),
    ),
    "state.disk_refused": (
        (
            "The disk of FLOWER_STATE_DISK is not used, because it may hold something else. Only "
            "a whole, empty disk without any signature is formatted."
        ),
        (
            "Look at the disk: lsblk -f; wipefs DEVICE. If nothing on it is needed, empty it: "
            "wipefs -a DEVICE; blkdiscard -z DEVICE."
        ),
    ),
    "state.other_vm": (
        "Another VM created the state: the disk was cloned.",
        (
            "SuperLink: make sure that only one of the two VMs runs. SuperNode: nothing to do, it "
            "gets its own partition. For the next image: run flower-agent reset before you save "
            "it."
        ),
    ),
    "state.unwritable": (
        "The agent cannot write its files.",
        (
            "Check the path in the message: df -h PATH; findmnt -T PATH; ls -ld PATH. Running "
            "containers continue."
        ),
    ),
    "superexec.detached": (
        "The SuperExec runs but has no connection to its AppIo, so no app can run.",
        "Read the SuperExec's last lines: flower-agent logs superexec",
    ),
    "template.context": (
        "The CONTEXT of a template lacks a value that the VM needs from OpenNebula.",
        "Add the value to the CONTEXT of the VM template.",
    ),
    "template.malformed": (
        (
            "The template is neither JSON nor OpenNebula's syntax, or it does not describe a VM "
            "or a service."
        ),
        (
            "Use the output of `onetemplate show -j` or `oneflow-template show -j`, or a template "
            "file."
        ),
    ),
    "template.role": (
        "OneFlow refuses a role, or would never deploy it.",
        "Correct the roles of the service template.",
    ),
    "template.value": (
        "OpenNebula changes a value of the CONTEXT before the VM gets it, or refuses the value.",
        "Remove the text in the message. You can give keys and certificates as base64.",
    ),
    "tls.ca_changed": (
        "OneGate has another CA than the one that this node trusts.",
        (
            "Compare first, on the SuperLink's VM: flower-agent tls show. If the SuperLink has a "
            "new CA, on this VM: flower-agent tls trust SHA256, or set FLOWER_CA_FINGERPRINT."
        ),
    ),
    "tls.ca_lost": (
        "The CA's key or certificate is damaged. No node would trust a new CA.",
        (
            "Flower continues to run meanwhile. Restore /var/lib/flower-agent/tls/ca/ca.pem from "
            "a backup: nothing else is needed. Without a backup: mv /var/lib/flower-agent/tls "
            "/root/tls.old, then systemctl restart flower-agent, and on each node: flower-agent "
            "tls trust SHA256, with the value that flower-agent tls show prints here."
        ),
    ),
    "tls.chain": (
        "The certificate in TLS_CERT does not chain to the CA in TLS_CA_CERT.",
        (
            "Put the intermediate certificates after the server's certificate in TLS_CERT, or "
            "correct TLS_CA_CERT."
        ),
    ),
    "tls.disabled": (
        "TLS is off: others can read and change all Flower traffic on the network.",
        "Set TLS_ENABLED=YES on every VM of the federation.",
    ),
    "tls.expired": (
        "The certificate from the settings is not valid now.",
        "Renew the certificate, and check the VM's clock.",
    ),
    "tls.expires_soon": (
        "A certificate ends soon. The agent did not issue it and cannot renew it.",
        (
            "Renew the certificate. Then set TLS_CERT and TLS_KEY again, or replace the files in "
            "/etc/flower-agent/tls."
        ),
    ),
    "tls.fingerprint": (
        "The CA is not the one that FLOWER_CA_FINGERPRINT names.",
        "Compare with the CA on the SuperLink's VM: flower-agent tls show",
    ),
    "tls.key_mismatch": (
        "TLS_KEY does not belong to the certificate in TLS_CERT.",
        "Set both to values of the same pair.",
    ),
    "tls.not_own": (
        "The agent did not issue this certificate and has no CA to renew it.",
        "Set TLS_CERT and TLS_KEY again, or put the new pair into /etc/flower-agent/tls.",
    ),
    "tls.not_covered": (
        "The certificate in the settings does not contain the address that nodes connect to.",
        (
            "Get a certificate with that name, or set FLOWER_PUBLIC_ADDRESS to a name in the "
            "certificate."
        ),
    ),
    "tls.loopback": (
        (
            "The certificate in the settings lacks 127.0.0.1, the address of a tunnel to the "
            "Control API."
        ),
        (
            "Get a certificate with 127.0.0.1, or use a name from the certificate for the tunnel "
            "(/etc/hosts)."
        ),
    ),
    "tls.mismatch": (
        "TLS is on at one end and off at the other.",
        "Set TLS_ENABLED to the same value on every VM of the federation.",
    ),
    "trust.nodes_refuse": (
        "SuperNodes of the service refuse this SuperLink's CA: it was made anew without its state.",
        (
            "Give the SuperLink its old state back, or let each node trust the new CA: "
            "flower-agent tls trust SHA256, as flower-agent tls show tells here."
        ),
    ),
    "version.downgrade": (
        (
            "A SuperLink's database cannot go back to an older Flower. The newer version "
            "continues to run."
        ),
        (
            "Set FLOWER_VERSION back. To start from zero instead: flower-agent reset. That "
            "removes runs, nodes and the CA."
        ),
    ),
    "version.failed": (
        "An upgrade failed. The previous Flower version runs with its unchanged database.",
        (
            "Set FLOWER_VERSION to the running version, remove the cause in the message, and set "
            "the new version again."
        ),
    ),
    "version.follows": (
        (
            "This SuperNode has another Flower version than its SuperLink. The SuperNode waits "
            "for the SuperLink."
        ),
        "Set the same FLOWER_VERSION on the SuperLink.",
    ),
    "version.mixed": (
        "SuperLink and SuperNode run different Flower versions.",
        "Set the same FLOWER_VERSION on every VM of the service.",
    ),
    "version.newer": (
        (
            "This agent does not know the Flower version. The agent treats it like the newest "
            "known version."
        ),
        "If the containers do not start, look for a newer flower-agent.",
    ),
}
