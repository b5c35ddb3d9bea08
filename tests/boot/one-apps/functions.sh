# Stands in for one-apps' lib/common.sh and lib/functions.sh: the functions of the same names that
# an appliance script calls or finds, and what they do to status, motd and the process's end.
msg() {
    local kind=$1
    shift
    echo "$kind: $*"
    [ "$kind" != error ]
}

is_true() { [[ ${!1,,} =~ ^(1|true|yes|y)$ ]]; }

create_one_service_metadata() {
    printf -- '---\nname: "%s"\nversion: "%s"\n' "$ONE_SERVICE_NAME" "$ONE_SERVICE_VERSION" \
        >/etc/one-appliance/metadata
}

_get_service_status() { cat "$ONE_SERVICE_STATUS" 2>/dev/null || true; }

_set_service_status() {
    local stage=$1 result=started
    case $1 in success | failure)
        stage=$(_get_service_status) stage=${stage%%_*} result=$1
        ;;
    esac
    echo "${stage}_$result" >"$ONE_SERVICE_STATUS"
    case "${stage}_$result" in
    bootstrap_success) echo ' All set and ready to serve 8)' ;;
    *) echo " $stage step: $result" ;;
    esac >/etc/motd
}

_check_service_status() {
    local now
    now=$(_get_service_status)
    case "$1:$now" in
    install: | configure:install_success | bootstrap:configure_success) return 0 ;;
    install:install_success) return 1 ;;
    configure:configure_* | configure:bootstrap* | bootstrap:bootstrap_*)
        if is_true _reconfigure; then return 0; fi
        [[ $now == *_success ]] && return 1
        ;;
    esac
    msg error "$1 cannot be run after '$now'" || exit 1
}

_on_exit() {
    set +e
    service_cleanup
    case $(_get_service_status) in *_started) _set_service_status failure ;; esac
}
