#!/usr/bin/env bash
# In Packer's VM: Docker and the agent, SSH closed again, no state of the agent. one-apps'
# postprocess.sh removes machine-id and SSH keys.
exec 1>&2
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
# needrestart would restart sshd under Packer, and unattended-upgrades may hold apt's lock.
export NEEDRESTART_MODE=l
systemctl stop apt-daily.timer apt-daily-upgrade.timer unattended-upgrades || true

apt-get update -qq
apt-get -o DPkg::Lock::Timeout=600 install -y -qq apparmor docker.io /root/flower-agent.deb
rm /root/flower-agent.deb

passwd --lock root
sed -i 's/^#*PasswordAuthentication .*/PasswordAuthentication no/;
        s/^#*PermitRootLogin .*/PermitRootLogin prohibit-password/' /etc/ssh/sshd_config

flower-agent reset --yes
apt-get clean
rm -rf /var/lib/apt/lists/*
