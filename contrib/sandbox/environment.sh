#!/usr/bin/env bash
# Makes build/venv with flower-agent and its libraries; with --dev also what the tests need.
# Installs python3-venv and git from the distribution where they are missing.
set -euo pipefail
cd "$(dirname "$0")/../.."

extra=${1:+[dev,gateway]}
PATH=${PATH//"$PWD/build/venv/bin:"/}  # of an activated one, which must not make itself
python=$(command -v python3 || true)
if [ -z "$python" ] || ! "$python" -c 'import ensurepip, venv' 2>/dev/null || ! command -v git >/dev/null; then
    echo "Installing python3, python3-venv and git …"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3 python3-venv git >/dev/null
    python=$(command -v python3)
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "flower-agent needs Python 3.11 or newer; this is $("$python" --version)." >&2; exit 1; }

want=$({ "$python" --version; cat pyproject.toml; } | sha256sum)
if [ "$(cat build/venv/.made-for 2>/dev/null)" != "$want" ]; then
    echo "Making build/venv …"
    rm -rf build/venv
    "$python" -m venv build/venv
    build/venv/bin/pip install -q --disable-pip-version-check -e .
    echo "$want" >build/venv/.made-for
fi
if [ -n "$extra" ] && [ ! -e build/venv/.has-dev ]; then
    echo "Adding the tools of the tests …"
    build/venv/bin/pip install -q --disable-pip-version-check -e ".$extra"
    touch build/venv/.has-dev
fi
