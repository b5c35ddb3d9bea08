#!/bin/sh
# Makes sure that a Docker Engine runs on this Debian or Ubuntu machine: installs docker.io where
# dockerd is missing and starts it, with or without systemd. Safe to run again at any time.
set -eu

socket=/var/run/docker.sock
log=/var/log/dockerd.log
wait_s=60
lock_wait_s=120

say() { printf 'engine: %s\n' "$*"; }

fail() {
    printf 'engine: %s\n' "$*" >&2
    exit 1
}

# Ask the local socket only: DOCKER_HOST or a context may name another machine's Engine.
answers() {
    command -v docker >/dev/null 2>&1 || return 1
    env -u DOCKER_CONTEXT DOCKER_HOST="unix://$socket" \
        timeout 10 docker version --format '{{.Server.Version}}' 2>/dev/null
}

has_systemd() { [ "$(cat /proc/1/comm 2>/dev/null)" = systemd ]; }

# DPkg::Lock::Timeout waits for dpkg's locks but not for the one of apt's lists, so try again.
apt() {
    for attempt in 1 2 3 4 5; do
        if DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=$lock_wait_s "$@"; then
            return 0
        fi
        say "apt-get $1 failed (try $attempt of 5)"
        [ "$attempt" = 5 ] || sleep 5
    done
    return 1
}

install_engine() {
    command -v apt-get >/dev/null || fail "dockerd is missing and there is no apt-get: install a Docker Engine by hand"
    say "installing docker.io (about a minute)"
    apt update >/dev/null || fail "apt-get update does not work: check the machine's package sources"
    apt install -y docker.io >/dev/null || fail "docker.io cannot be installed: run apt-get install docker.io to see why"
}

start_engine() {
    if has_systemd; then
        systemctl start docker || true # the wait below tells, with the log
    elif ! grep -qsx dockerd /proc/[0-9]*/comm; then
        # Only a dead daemon's pid file is left here; a reused pid in it would stop the new one.
        rm -f /var/run/docker.pid
        setsid dockerd >"$log" 2>&1 </dev/null &
    fi
}

show_log() {
    if has_systemd; then
        journalctl -u docker -n 20 --no-pager
    else
        tail -n 20 "$log"
    fi >&2 || true
}

if version=$(answers); then
    say "Docker Engine $version already answers on $socket"
    exit 0
fi
[ "$(id -u)" = 0 ] ||
    fail "no Engine answers on $socket to this user: run this as root (or join the group docker if one runs)"
PATH=$PATH:/usr/sbin:/sbin
command -v dockerd >/dev/null || install_engine

say "starting dockerd"
start_engine
waited=0
until version=$(answers); do
    if [ "$waited" -ge $wait_s ]; then
        show_log
        fail "dockerd does not answer on $socket after $wait_s s: its last log lines are above"
    fi
    sleep 1
    waited=$((waited + 1))
done
say "Docker Engine $version answers on $socket (after $waited s)"
