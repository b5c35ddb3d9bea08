"""Every error code with its meaning and remedy; ``docs/errors.md`` is generated from it.

Codes are public: they are added to, never renamed. One table, so longer than a module should be.
"""

CATALOGUE: dict[str, tuple[str, str]] = {
    "address.ambiguous": (
        "The VM has no default route and several addresses, so none is the obvious one.",
        "Set FLOWER_ADDRESS to one of the listed addresses, or to ETHn.",
    ),
    "address.two_routes": (
        "Two NICs have default routes of the same metric, so which address counts is chance.",
        "Set FLOWER_ADDRESS=ETHn, or give one of them another ETHn_METRIC.",
    ),
    "address.unknown": (
        "FLOWER_ADDRESS names an address or a NIC that this VM does not have.",
        "Set FLOWER_ADDRESS to an address of this VM or to ETHn of its context.",
    ),
    "agent.bug": (
        "The agent met something it does not understand; the containers stay as they are.",
        "Flower runs on. Report it with the traceback of: journalctl -u flower-agent -n 200",
    ),
    "agent.running": (
        "Another agent process of this root or name runs and owns the containers.",
        "Stop it first: systemctl stop flower-agent",
    ),
    "agent.silent": (
        "The agent runs, but its status is old or unknown; it may hang.",
        "systemctl status flower-agent; then: systemctl restart flower-agent. Containers run on.",
    ),
    "agent.stopped": (
        "No agent runs on this VM, so nothing is started, watched or reported.",
        "systemctl start flower-agent; journalctl -u flower-agent",
    ),
    "appio.open": (
        "An AppIo listens beyond loopback without TLS; whoever reaches it can run as an app.",
        "Limit the port to the SuperExec's address by a firewall or a network of its own.",
    ),
    "appio.plaintext": (
        "This SuperExec reaches its AppIo without TLS; apps and models travel in the clear.",
        "Use Flower 1.30 or newer with TLS_ENABLED=YES, or a network of its own for the two VMs.",
    ),
    "clock.skew": (
        "This VM's clock differs from OneGate's by more than Flower accepts between two VMs.",
        (
            "Synchronize the clock: timedatectl; then chrony or systemd-timesyncd. Nothing "
            "restarts for it."
        ),
    ),
    "config.invalid": (
        "/etc/flower-agent/config.yaml is not a mapping of known names to values.",
        "Write one `name: value` a line, names in lower case, then: flower-agent check",
    ),
    "container.crash_loop": (
        "A container ends again and again; restarts wait longer each time.",
        (
            "Read its last lines: flower-agent logs. It is tried again by itself at the time in "
            "the message."
        ),
    ),
    "container.exited": (
        "A container that should run has ended; the agent starts it again.",
        "Read its last lines: flower-agent logs",
    ),
    "container.foreign": (
        "A container has the agent's name but not its label, so it is not the agent's to touch.",
        (
            "docker rename NAME NAME-old: the agent then makes its own. Remove the other one "
            "once you know whose it is."
        ),
    ),
    "container.paused": (
        "Somebody paused a container; no app can run meanwhile.",
        "docker unpause NAME",
    ),
    "container.refused": (
        "Docker refused to create or start a container.",
        (
            "Read Docker's reason in the message, and: journalctl -u docker -n 50. It is tried "
            "again by itself."
        ),
    ),
    "context.malformed": (
        "The context file is not what OpenNebula writes.",
        "Write NAME='value', one a line, as OpenNebula does; look at the named line.",
    ),
    "context.unreadable": (
        "The context is there, but this user may not read it: it is root's.",
        "Run it as root.",
    ),
    "context.missing": (
        "There is no context in /run/one-context.",
        "Attach a CONTEXT section to the VM template and check that one-context is installed.",
    ),
    "context.report_ready": (
        "REPORT_READY is set: one-context reports READY when its scripts end, before Flower works.",
        "Take REPORT_READY out of the CONTEXT; the agent reports READY itself.",
    ),
    "context.token_lost": (
        "The context lost TOKEN, VMID or ONEGATE_ENDPOINT; the last ones of this boot stay in use.",
        "Use `onevm updateconf` with -a (append), or add TOKEN=YES to the CONTEXT again.",
    ),
    "context.too_large": (
        "The context file is larger than any context that OpenNebula makes.",
        "Take large values out of the CONTEXT.",
    ),
    "control.database": (
        "The SuperLink serves, but cannot use its database: it keeps no node and no run.",
        (
            "On the SuperLink's VM: df -h /var/lib/flower-agent/superlink; ls -la "
            "/var/lib/flower-agent/superlink (group 49999, writable); findmnt -T "
            "/var/lib/flower-agent. Nothing in it is to be removed."
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
        "The Control API listens beyond loopback; Flower does not authenticate it.",
        "Leave FLOWER_CONTROL_ADDRESS empty and reach it through an SSH tunnel.",
    ),
    "control.refused": (
        "The SuperLink's Control API refused a request.",
        "Read its words in the message.",
    ),
    "control.unavailable": (
        "The SuperLink's Control API does not answer.",
        "Read the SuperLink's last lines: flower-agent logs superlink",
    ),
    "cpu.old": (
        "The CPU model lacks what NumPy or the framework is built for: apps end at their import.",
        'Set CPU_MODEL=[MODEL="host-passthrough"] in the VM template.',
    ),
    "data.filesystem": (
        "The disk or the server of FLOWER_DATA has no file system that this VM's kernel can mount.",
        (
            "Name its type: FLOWER_DATA=LABEL=x,type=xfs. Look with: lsblk -f. Only on a disk "
            "that is empty: mkfs.ext4 -L LABEL DEVICE"
        ),
    ),
    "data.missing": (
        "What FLOWER_DATA names is not there: the directory, the disk, the server or its export.",
        "Attach the disk, start the server or make the directory; it is looked at again by itself.",
    ),
    "data.refused": (
        "Docker cannot mount what FLOWER_DATA names.",
        "Read its reason in the message; an NFS server must export to this VM: exports(5).",
    ),
    "data.unreadable": (
        "Flower's user 49999 may not read apps' data.",
        (
            "Where the data lies: chgrp -R 49999 DIRECTORY && chmod -R g+rX DIRECTORY; for data "
            "that everybody may read: chmod -R a+rX DIRECTORY"
        ),
    ),
    "discover.ambiguous": (
        "More than one VM of the service claims to be the SuperLink.",
        "Find the wrong one (onevm show ID), or set FLOWER_SERVER_ADDRESS and TLS_CA_CERT.",
    ),
    "discover.no_source": (
        "The VM has no way to find its SuperLink or the SuperLink's CA.",
        (
            "Set FLOWER_SERVER_ADDRESS and TLS_CA_CERT, or run the VM in a OneFlow service with "
            "TOKEN=YES."
        ),
    ),
    "discover.waiting": (
        "The SuperLink has not published its endpoint and CA yet.",
        "Look at the SuperLink's VM: flower-agent status",
    ),
    "disk.low": (
        "A file system has too little room for what the agent or Docker must write.",
        (
            "Look first: df -h; docker system df; journalctl --disk-usage. Then enlarge the "
            "disk, or remove what is not in /var/lib/flower-agent."
        ),
    ),
    "docker.busy": (
        "Docker makes or starts a container for longer than usual; the agent waits for it.",
        "Nothing, at first: after `docker load` Docker unpacks images. Else: journalctl -u docker",
    ),
    "docker.down": (
        "The Docker Engine does not answer.",
        "systemctl status docker; journalctl -u docker -n 50; then: systemctl start docker",
    ),
    "docker.live_restore": (
        "Docker ends the containers when it restarts: live-restore is off.",
        (
            'Put "live-restore": true into /etc/docker/daemon.json; then, which restarts nothing: '
            "systemctl reload docker"
        ),
    ),
    "docker.refused": (
        "The Docker Engine refused a request.",
        "Read Docker's reason in the message, and: journalctl -u docker",
    ),
    "endpoint.expired": (
        "The certificate at the endpoint is not valid at this VM's time.",
        "Compare the clocks (timedatectl) and the certificate's dates on the SuperLink.",
    ),
    "endpoint.not_flower": (
        "Something answers at the endpoint, but it is not a Flower API.",
        "Check the port: FLOWER_SERVER_ADDRESS, FLOWER_FLEET_PORT.",
    ),
    "endpoint.plaintext": (
        "The endpoint speaks without TLS while TLS is wanted.",
        "Check the port in FLOWER_SERVER_ADDRESS; set TLS_ENABLED alike on every VM.",
    ),
    "endpoint.refused": (
        "Nothing listens at the endpoint.",
        "On the SuperLink's VM: flower-agent status. Check FLOWER_SERVER_ADDRESS where it is set.",
    ),
    "endpoint.timeout": (
        "The endpoint does not answer.",
        "Check routes and firewalls between the VMs: flower-agent doctor, on both.",
    ),
    "endpoint.unknown_host": (
        "The endpoint's name cannot be resolved.",
        "Check DNS on this VM, or use an IP address.",
    ),
    "endpoint.untrusted": (
        "The certificate at the endpoint was not issued by the trusted CA.",
        "Compare the CA's fingerprint on both VMs: flower-agent tls show",
    ),
    "endpoint.wrong_name": (
        "The certificate at the endpoint does not name the dialled address.",
        "Set FLOWER_TLS_SANS or FLOWER_PUBLIC_ADDRESS on the SuperLink to what nodes dial.",
    ),
    "enrol.key_changed": (
        "A VM publishes another node key than the first one, which is pinned; it is refused.",
        (
            "Was that VM made anew, or has it lost its key? Ask its flower-agent status. Only "
            "then: flower-agent nodes list, and flower-agent nodes unregister NODE, with the id of "
            "its old node. Else another VM of the service wrote it, and nothing is to be done here."
        ),
    ),
    "enrol.key_damaged": (
        "The node key's file was damaged; the SuperLink does not take the new key by itself.",
        (
            "Restore the key that the message names from a backup; the agent takes it by itself. "
            "Without a backup, on the SuperLink's VM: flower-agent nodes list, then flower-agent "
            "nodes unregister NODE, with the id of this VM's old node."
        ),
    ),
    "enrol.key_invalid": (
        "The given private key is no EC key in OpenSSH form.",
        "Make it with: ssh-keygen -t ecdsa -b 384 -N ''",
    ),
    "enrol.key_refused": (
        "A node key cannot be registered.",
        "Read the reason in the message; look at the SuperNode's VM: flower-agent status",
    ),
    "enrol.key_spent": (
        "A key was unregistered; Flower never takes it again.",
        "Give that SuperNode a new key, and put its public half in the old one's place.",
    ),
    "enrol.mismatch": (
        "SuperNode authentication is on at one end and off at the other.",
        "Set FLOWER_NODE_AUTH alike on every VM of the federation, or leave it empty.",
    ),
    "enrol.stranger": (
        "A VM of the service says that it has a role that none has, or another than OneFlow's.",
        (
            "See its attributes: onevm show ID. Any VM of the service may write any other's "
            "attributes."
        ),
    ),
    "enrol.waiting": (
        "The SuperLink does not know this node's key.",
        (
            "In a service its agent registers the key by itself: look at the SuperLink's status. "
            "Else set FLOWER_NODE_PUBLIC_KEYS there, or run: flower-agent nodes register KEY"
        ),
    ),
    "env.reserved": (
        "A FLOWER_ENV_ variable has a name that the loader, Python, Flower or the agent owns.",
        "Take it out; docs/data.md lists the names. A proxy is set by FLOWER_HTTPS_PROXY.",
    ),
    "firewall.drops": (
        "A firewall is active on this VM and no SuperNode comes: it may close the Fleet port.",
        (
            "Accept the port from the federation's subnet ahead of what drops it: "
            "/usr/share/doc/flower-agent/examples/fleet-port.nft"
        ),
    ),
    "gpu.cdi_stale": (
        "The CDI specification names files of another driver than the one that is installed.",
        (
            "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml; if that is not enough, "
            "between two runs: systemctl restart docker"
        ),
    ),
    "gpu.inforom": (
        "nvidia-smi warns of a GPU's damaged infoROM (exit 14); the GPU is used.",
        "Nothing, while apps compute; the GPU's vendor can write it anew: nvidia-smi -q",
    ),
    "gpu.mig_empty": (
        "MIG is on and no GPU has a MIG instance, so CUDA sees none.",
        "Make instances (nvidia-smi mig -cgi PROFILE -C), or switch MIG off: nvidia-smi -mig 0",
    ),
    "gpu.mismatch": (
        "The loaded NVIDIA driver and its libraries are of different versions, after an upgrade.",
        "Reboot the VM between two runs; keep unattended upgrades away from the driver's packages.",
    ),
    "gpu.no_driver": (
        "The VM has an NVIDIA GPU but no loaded driver.",
        "Install the NVIDIA driver in the image.",
    ),
    "gpu.no_toolkit": (
        "Docker cannot hand the GPU to a container: the NVIDIA container toolkit is missing.",
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
        "The container was given the GPU, but CUDA does not work inside it.",
        (
            "nvidia-smi on the VM; between two runs: docker restart NAME, with the name in the "
            "message."
        ),
    ),
    "gpu.unusable": (
        "The NVIDIA driver is loaded, but cannot use the GPU.",
        "Read what the driver says: dmesg | grep -iE 'nvrm|xid'",
    ),
    "health.not_serving": (
        "A container runs, but its health service does not answer SERVING.",
        "Read its last lines: flower-agent logs",
    ),
    "image.architecture": (
        "The registry has the image, but not for this VM's processor.",
        (
            "Use a FLOWER_VERSION that has it, a VM of another processor, or images of your own: "
            "FLOWER_IMAGE_PREFIX."
        ),
    ),
    "image.build": (
        "The image for ML_FRAMEWORK or an app could not be made; the agent tries again.",
        (
            "Check that the VM reaches its package index and has room on the disk, or make the "
            "image on another machine: flower-agent bake --framework NAME --app URL"
        ),
    ),
    "image.cpu_builds": (
        "No CPU build of torch or its kin could be had; the image has builds that bring CUDA.",
        "Let the VM reach the index of CPU builds, or name one that it reaches: docs/images.md.",
    ),
    "image.denied": (
        "The registry refuses the image: wrong credentials, or it does not exist.",
        (
            "Check FLOWER_IMAGE_PREFIX, FLOWER_VERSION, FLOWER_REGISTRY_USER, "
            "FLOWER_REGISTRY_PASSWORD; `docker login` on the VM is not used."
        ),
    ),
    "image.framework": (
        "No image for ML_FRAMEWORK or the app can be made with this Flower version.",
        "Use another FLOWER_VERSION or ML_FRAMEWORK, or let the app want releases that fit it.",
    ),
    "image.pull": (
        "An image could not be pulled; the agent tries again.",
        (
            "Check the network and the registry: flower-agent doctor. An image that is present "
            "needs neither."
        ),
    ),
    "memory.low": (
        "The VM has little memory left; the kernel may soon kill an app, or Flower.",
        "Give the VM more memory, or lower FLOWER_MEMORY_LIMIT.",
    ),
    "nic.mtu": (
        "A NIC sends packets of another size than the virtual network is said to carry (ETHn_MTU).",
        (
            "Give the NIC the MTU of its network: ip link set NIC mtu BYTES; or correct MTU of the "
            "virtual network, then onevm updateconf."
        ),
    ),
    "node.degraded": (
        "SuperNodes say at OneGate that they do not work; this SuperLink does.",
        "On the named VM: flower-agent status",
    ),
    "node.image": (
        "The image that runs apps on a SuperNode lacks what the app of CUSTOM_APP_REPO wants.",
        "On the named VM: flower-agent status says why (app); or bake it: flower-agent bake --app",
    ),
    "node.offline": (
        "SuperNodes that were connected to this SuperLink are away.",
        (
            "See whether the named VM runs (onevm show), and its flower-agent status; one that is "
            "gone for good: flower-agent nodes unregister"
        ),
    ),
    "onegate.down": (
        "OneGate does not answer; Flower goes on, reports wait.",
        "Nothing on this VM. Check ONEGATE_ENDPOINT and the OneGate service of the cloud.",
    ),
    "onegate.garbage": (
        "OneGate answered something that is not its JSON.",
        "Check that ONEGATE_ENDPOINT is a OneGate and not a proxy.",
    ),
    "onegate.no_service": (
        "OneGate knows no OneFlow service that this VM belongs to.",
        "Deploy the VM by a OneFlow service, or set FLOWER_SERVER_ADDRESS and TLS_CA_CERT.",
    ),
    "onegate.overwritten": (
        "Another VM of the service overwrote what this SuperLink publishes; it is put back.",
        "Find the VM that does it: any VM of a service may write any other's attributes.",
    ),
    "onegate.refused": (
        "OneGate refused the request.",
        "A wrong token, an unknown VM and a stopped oned all look like this: check the cloud.",
    ),
    "partition.default": (
        "Outside a service nothing numbers this SuperNode, so it has partition 0 of 1.",
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
            "Synchronize the clock of this VM and of its SuperLink's (timedatectl): at most 5 s "
            "ahead, 5 min behind."
        ),
    ),
    "peer.ghost": (
        "The SuperLink takes a killed SuperNode's last connection for alive and lets no other in.",
        "Wait: it takes a minute at most, and the agent tries again by itself.",
    ),
    "peer.mtu": (
        "Small packets reach the peer and large ones do not: a link between drops them (MTU).",
        (
            "Compare `ip link` on both VMs with what every link between carries; set MTU of the "
            "virtual network (ETHn_MTU) to the smallest of them, for every VM."
        ),
    ),
    "peer.mute": (
        "The peer's machine takes connections, and its Flower answers nothing.",
        (
            "On that VM: flower-agent status; docker ps (paused: docker unpause flower-superlink). "
            "A Flower that hangs carries no run any more, so this counts as between two runs: "
            "docker restart flower-superlink"
        ),
    ),
    "peer.waiting": (
        "The SuperNode has not connected to the SuperLink yet.",
        "Read its last lines: flower-agent logs",
    ),
    "peer.lost": (
        "The SuperNode lost its SuperLink and tries to reach it again.",
        (
            "On the SuperLink's VM: flower-agent status. Of the network between: flower-agent "
            "doctor, here."
        ),
    ),
    "port.taken": (
        "A port that Flower needs is in use by another process.",
        (
            "Find it as root (ss -tanp), and stop it where it may end; or set another port: "
            "FLOWER_FLEET_PORT, FLOWER_SERVERAPPIO_PORT, FLOWER_CLIENTAPPIO_PORT, "
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
        "The VM was not ready within FLOWER_READY_TIMEOUT; the agent goes on trying.",
        "The phase and its error say what it waits for.",
    ),
    "run.active": (
        "The run has not ended, so what it leaves cannot be removed yet.",
        "Stop it first: flower-agent stop RUN",
    ),
    "run.build": (
        "Flower cannot make a bundle of the app.",
        "Read flwr's words in the message; try `flwr build` in the app.",
    ),
    "run.client_died": (
        "A ClientApp's process ended without an answer; the run waits for it until its time-out.",
        "Read why: flower-agent logs superexec. On the SuperLink's VM: flower-agent stop RUN",
    ),
    "run.client_failed": (
        "A ClientApp raised an exception; its SuperLink counts a failed reply.",
        "The whole traceback is in: flower-agent logs superexec",
    ),
    "run.clients_failed": (
        "The run finished, and replies of some clients did not count.",
        "Each round with its causes: flower-agent runs show RUN",
    ),
    "run.clone": (
        "The app's repository cannot be fetched; the agent tries again.",
        "Read git's words in the message; check CUSTOM_APP_REPO, network and proxy.",
    ),
    "run.config": (
        "A variable's value is not of the type that the app declares.",
        "Set it to a value of that type: [tool.flwr.app.config] of the app.",
    ),
    "run.denied": (
        "The app's repository refuses this VM, or does not exist.",
        "Check CUSTOM_APP_REPO: its path, and its user and token where it is private.",
    ),
    "run.dependency": (
        "The image that runs apps on this VM lacks something that the app wants installed.",
        "Use an image that has it: ML_FRAMEWORK, or FLOWER_IMAGE_PREFIX with images of your own.",
    ),
    "run.failed": (
        "The run failed; it is not submitted again by itself.",
        "Read its log in /var/lib/flower-agent/runs/. To run it again: flower-agent submit",
    ),
    "run.launch_unknown": (
        "This Flower starts apps in an unknown way; what they write is kept by process, not run.",
        "Use a FLOWER_VERSION that the agent knows, or a newer agent.",
    ),
    "run.lost": (
        "The SuperLink does not know the run any more: its database was lost.",
        "To run the app again: flower-agent submit",
    ),
    "run.message_lost": (
        "A SuperNode lost a message of a run, which waits for the answer until its time-out.",
        "Read why: flower-agent logs supernode. On the SuperLink's VM: flower-agent stop RUN",
    ),
    "run.moved": (
        "The branch or tag means another commit than the one that was submitted.",
        "To run the new one: flower-agent submit",
    ),
    "run.no_app": (
        "There is no Flower app where one should be.",
        "Name the app's directory: CUSTOM_APP_REPO=URL@ref#subdirectory",
    ),
    "run.no_outputs": (
        "The run left no files, or not the one that was named.",
        "Look at what there is: flower-agent runs show RUN",
    ),
    "run.no_git": (
        "There is no git on this VM.",
        "apt install git, or dnf install git",
    ),
    "run.no_ref": (
        "The repository has no such branch, tag or commit.",
        "Check what stands behind the @ in CUSTOM_APP_REPO.",
    ),
    "run.outputs": (
        "What a run left could not be taken into safety; it is tried again each minute.",
        "Read the reason, then: docker info; df -h /var/lib/flower-agent",
    ),
    "run.refused": (
        "The SuperLink refuses the run.",
        "Read its words in the message.",
    ),
    "run.stalled": (
        "A round takes much longer than the rounds before it: a client may have died or be slow.",
        "Look for a node with a warning: flower-agent nodes. To end it: flower-agent stop RUN",
    ),
    "run.too_large": (
        "The repository or the app is larger than the agent or Flower takes.",
        "Keep data out of the app's repository; nodes have theirs in data/.",
    ),
    "run.unknown": (
        "Nothing is kept of a run of that id on this VM.",
        "List the runs: flower-agent runs",
    ),
    "run.unread": (
        "A variable is set that the app does not read.",
        "Take it out, or declare its key in [tool.flwr.app.config] of the app.",
    ),
    "setting.conflict": (
        (
            "Two variables contradict each other, or one is set bare and with ONEAPP_ to different "
            "values."
        ),
        "Change one of the two, or take it out.",
    ),
    "setting.invalid": (
        "A variable's value is not of the wanted form.",
        "Set it to the wanted form: onevm updateconf VMID FILE -a",
    ),
    "setting.missing": (
        "A required variable is not set.",
        "Add it to the CONTEXT: onevm updateconf VMID FILE -a",
    ),
    "setting.near_miss": (
        "An unknown variable looks like a known one.",
        "Rename it, or ignore this.",
    ),
    "setting.no_effect": (
        "A variable is set that cannot have an effect here.",
        "Take it out, or set what it needs beside it.",
    ),
    "state.corrupt": (
        "A file of the agent's state cannot be read.",
        (
            "Keep a copy of the file that the message names. The agent makes it anew where "
            "nothing is lost by it; else restore it from a backup."
        ),
    ),
    "state.other_vm": (
        "The state was made by another VM: the disk was cloned.",
        (
            "SuperLink: see that only one of the two VMs lives. SuperNode: nothing, it has a "
            "partition of its own. For the next image: flower-agent reset before it is saved."
        ),
    ),
    "state.unwritable": (
        "The agent cannot write its files.",
        (
            "Check the path in the message: df -h PATH; findmnt -T PATH; ls -ld PATH. What runs "
            "goes on."
        ),
    ),
    "superexec.detached": (
        "The SuperExec runs but holds no connection to where it attaches, so no app can run.",
        "Read its last lines: flower-agent logs superexec",
    ),
    "template.context": (
        "The CONTEXT of a template lacks what the VM needs of OpenNebula.",
        "Add it to the CONTEXT of the VM template.",
    ),
    "template.malformed": (
        "The template is neither JSON nor OpenNebula's syntax, or not of a VM or a service.",
        "Give what `onetemplate show -j` or `oneflow-template show -j` prints, or a template file.",
    ),
    "template.role": (
        "OneFlow refuses a role, or would never deploy it.",
        "Correct the roles of the service template.",
    ),
    "template.value": (
        "OpenNebula changes a value of the CONTEXT on its way to the VM, or refuses it.",
        "Take out what the message names; keys and certificates may be given as base64.",
    ),
    "tls.ca_changed": (
        "OneGate hands over another CA than the one this node trusts.",
        (
            "Compare first, on the SuperLink's VM: flower-agent tls show. If it was made anew, "
            "on this VM: flower-agent tls trust SHA256, or set FLOWER_CA_FINGERPRINT."
        ),
    ),
    "tls.ca_lost": (
        "The CA's key or certificate is damaged; a new one would lose every node's trust.",
        (
            "Flower runs on meanwhile. Restore /var/lib/flower-agent/tls/ca/ca.pem from a "
            "backup: nothing else is needed. Without one: mv /var/lib/flower-agent/tls "
            "/root/tls.old, then systemctl restart flower-agent, and on each node: flower-agent "
            "tls trust SHA256, as flower-agent tls show tells here."
        ),
    ),
    "tls.chain": (
        "The given certificate does not chain to the given CA.",
        "Put the intermediate certificates behind the leaf in TLS_CERT, or fix TLS_CA_CERT.",
    ),
    "tls.disabled": (
        "TLS is off: everything that Flower sends can be read and changed on the way.",
        "Set TLS_ENABLED=YES on every VM of the federation.",
    ),
    "tls.expired": (
        "The given certificate is not valid now.",
        "Renew it; check the VM's clock.",
    ),
    "tls.expires_soon": (
        "A certificate ends soon and the agent cannot renew it: it was given.",
        "Renew it, then set TLS_CERT and TLS_KEY anew, or replace it in /etc/flower-agent/tls.",
    ),
    "tls.fingerprint": (
        "The CA is not the one that FLOWER_CA_FINGERPRINT names.",
        "Compare with the SuperLink's VM: flower-agent tls show",
    ),
    "tls.key_mismatch": (
        "TLS_KEY does not belong to the certificate in TLS_CERT.",
        "Set both from the same pair.",
    ),
    "tls.not_own": (
        "The certificate was given, so the agent has no CA to renew it with.",
        "Set TLS_CERT and TLS_KEY anew, or put the pair into /etc/flower-agent/tls.",
    ),
    "tls.not_covered": (
        "The given certificate does not name the address that nodes dial.",
        "Order a certificate with that name, or set FLOWER_PUBLIC_ADDRESS to a name it has.",
    ),
    "tls.loopback": (
        "The given certificate does not name 127.0.0.1, which a tunnel to the Control API dials.",
        "Order one with 127.0.0.1, or dial the tunnel by a name that it has (/etc/hosts).",
    ),
    "tls.mismatch": (
        "TLS is on at one end and off at the other.",
        "Set TLS_ENABLED alike on every VM of the federation.",
    ),
    "trust.nodes_refuse": (
        "SuperNodes of the service refuse this SuperLink's CA: it was made anew without its state.",
        (
            "Give the SuperLink its old state back, or let each node trust the new CA: "
            "flower-agent tls trust SHA256, as flower-agent tls show tells here."
        ),
    ),
    "version.downgrade": (
        "A SuperLink's database cannot go back to an older Flower; the newer one runs on.",
        (
            "Set FLOWER_VERSION back. To begin anew instead: flower-agent reset, which loses "
            "runs, nodes and the CA."
        ),
    ),
    "version.failed": (
        "An upgrade failed: the Flower version from before runs on, its database as it was.",
        "Set FLOWER_VERSION to what runs, mend the named reason, and set it again.",
    ),
    "version.follows": (
        "This SuperNode is to run another Flower than its SuperLink, and waits for that to change.",
        "Set the same FLOWER_VERSION on the SuperLink.",
    ),
    "version.mixed": (
        "SuperLink and SuperNode run different Flower versions.",
        "Set the same FLOWER_VERSION on every VM of the service.",
    ),
    "version.newer": (
        "The Flower version is newer than any this agent knows; it is treated as the newest known.",
        "Look for a newer flower-agent if the containers do not start.",
    ),
}
