#!/usr/bin/env bash
# Flower as an appliance of OpenNebula's one-apps, whose service.sh sources this file last. The
# agent's own unit does the work; this installs its package and hands over. Not for use as it is:
# contrib/templates/one_apps.py writes the variables and the version into it.
# Facts: OpenNebula/one-apps, appliances/service.sh and lib/.
# shellcheck disable=SC2034  # service.sh, common.sh and functions.sh read the variables

ONE_SERVICE_PARAMS=(
@PARAMS@
)

ONE_SERVICE_NAME='Service Flower - KVM'
ONE_SERVICE_VERSION='@VERSION@'
ONE_SERVICE_BUILD=$(date +%s)
ONE_SERVICE_SHORT_DESCRIPTION='Flower federated learning: SuperLink, SuperNode or SuperExec'
ONE_SERVICE_DESCRIPTION='Federated learning with Flower. A VM becomes a SuperLink, a SuperNode or a
SuperExec by FLOWER_ROLE in its context; a service of them comes up by itself. Names may have the
prefix ONEAPP_ or not. On the VM: flower-agent status'
# Else a second boot and a new context would be refused.
ONE_SERVICE_RECONFIGURABLE=true

FLOWER_UNIT=flower-agent.service
FLOWER_STATUS=${ONE_SERVICE_STATUS:-/etc/one-appliance/status}
flower_download='' flower_done=''

# service.sh calls a stage a success when its script has ended, and its net-99-report-ready then
# tells OneGate READY. Here only the agent knows, and it keeps status and motd: after the
# installation nobody else writes them while it runs, and nobody ever says that the VM is ready.
if declare -F _set_service_status >/dev/null; then
    eval "flower$(declare -f _set_service_status)"
    _set_service_status() {
        if [ "${_ACTION:-}" != install ]; then
            if systemctl --quiet is-active "$FLOWER_UNIT"; then return 0; fi
            case "${_ACTION:-}:$1:$flower_done" in
            # The trap of service.sh takes any "started" at the end for an interruption.
            bootstrap:success:* | *:failure:yes) return 0 ;;
            esac
        fi
        flower_set_service_status "$@"
    }
fi

service_install() {
    mkdir -p "${ONE_SERVICE_SETUP_DIR:=/opt/one-appliance}"
    flower_find_package || exit 1
    msg info "Installing $flower_package"
    flower_install_package || {
        msg error "The package or what it depends on was not installed" || exit 1
    }
    create_one_service_metadata
    msg info "Flower agent $(dpkg-query -W -f '${Version}' flower-agent 2>/dev/null ||
        rpm -q flower-agent) is installed"
}

# Tells what is wrong with the context. The agent judges it again by itself, and follows changes.
service_configure() {
    command -v flower-agent >/dev/null || { msg error "flower-agent is not installed" || exit 1; }
    flower-agent check || msg warning "The agent will report the above; correct the context"
    flower_done=yes
}

# Returns at once: one-context holds its lock meanwhile. An agent that an administrator disabled or
# masked stays so.
service_bootstrap() {
    if systemctl --quiet is-enabled "$FLOWER_UNIT"; then
        systemctl --no-block start "$FLOWER_UNIT"
        msg info "Handed over to $FLOWER_UNIT, which keeps $FLOWER_STATUS and /etc/motd true"
    else
        msg warning "$FLOWER_UNIT is not enabled, so nothing was started"
    fi
    flower_done=yes
}

service_cleanup() {
    if [ -n "$flower_download" ]; then rm -rf "$flower_download"; fi
}

service_help() {
    cat <<'END'
Flower on OpenNebula: each VM becomes a SuperLink, a SuperNode or a SuperExec.

  service install     installs the agent's package: the one in /opt/one-appliance, or the path or
                      URL in FLOWER_AGENT_PACKAGE; a URL needs FLOWER_AGENT_PACKAGE_SHA256
  service configure   says what is wrong with the context
  service bootstrap   starts the agent, and waits for nothing: flower-agent status --wait does

Variables of the context, each with or without ONEAPP_:
END
    local at
    for ((at = 0; at < ${#ONE_SERVICE_PARAMS[@]}; at += 4)); do
        printf '  %s\n      %s\n' "${ONE_SERVICE_PARAMS[at]}" "${ONE_SERVICE_PARAMS[at + 2]}"
    done
}

# Sets flower_package to a file: the one that was named, or the one of this version.
flower_find_package() {
    local given=${FLOWER_AGENT_PACKAGE:-} found
    case "$given" in
    https://* | http://*) flower_fetch_package "$given" ;;
    '')
        found=()
        for each in "$ONE_SERVICE_SETUP_DIR"/flower-agent[_-]"$ONE_SERVICE_VERSION"-*.{deb,rpm}; do
            if [ -f "$each" ]; then found+=("$each"); fi
        done
        [ "${#found[@]}" = 1 ] || {
            msg error "Want one package of version $ONE_SERVICE_VERSION in" \
                "$ONE_SERVICE_SETUP_DIR, found ${#found[@]}; or name it in FLOWER_AGENT_PACKAGE"
            return 1
        }
        flower_package=${found[0]}
        ;;
    *)
        flower_package=$(realpath "$given")
        [ -f "$flower_package" ] || { msg error "There is no $given" || return 1; }
        ;;
    esac
}

# The packages are not signed, hence the sum.
flower_fetch_package() {
    local url=$1 sum=${FLOWER_AGENT_PACKAGE_SHA256:-}
    [ -n "$sum" ] || { msg error "FLOWER_AGENT_PACKAGE_SHA256 is not set" || return 1; }
    flower_download=$(mktemp -d)
    flower_package=$flower_download/${url##*/}
    curl --fail --silent --show-error --location --proto '=https,http' --max-time 600 \
        --output "$flower_package" "$url" || { msg error "$url was not fetched" || return 1; }
    echo "$sum  $flower_package" | sha256sum --check --status || {
        msg error "$url has another SHA-256 than FLOWER_AGENT_PACKAGE_SHA256" || return 1
    }
}

flower_install_package() (
    umask 0022 # service.sh sets 0077, and packages make files when they are installed
    case "$flower_package" in
    *.deb)
        # apt's user reads no file below a directory of mode 0700, and needs not.
        export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l
        apt-get -q update && apt-get -o DPkg::Lock::Timeout=600 -o APT::Sandbox::User=root \
            -q -y install "$flower_package" && apt-get clean
        ;;
    *.rpm)
        if command -v zypper >/dev/null; then
            zypper --non-interactive install --allow-unsigned-rpm "$flower_package"
        else
            # EL 9 has no Docker Engine: Docker's own repository must be there.
            dnf --assumeyes install "$flower_package"
        fi
        ;;
    *) msg error "Neither a deb nor an rpm: $flower_package" ;;
    esac
)
