#!/bin/sh
# Installs what the interoperability suite needs on a Debian machine: mosquitto and its clients, valgrind, Chromium, a Python
# environment and the packages for Node.js. Both environments live under target/, so nothing lands in the tree. Safe to run again: what is already
# there is left alone, which takes a fraction of a second. Installing Debian packages needs root; the rest does not.
set -eu
cd "$(dirname "$0")/.."
suite=tests/interop
target=${CARGO_TARGET_DIR:-target}
venv=$target/interop-venv
node=$target/interop-node

# --- Debian packages: only those whose command is missing, so a Node.js from elsewhere is not fought over. -------------------
packages=
need() { command -v "$1" >/dev/null 2>&1 || packages="$packages $2"; }
PATH=$PATH:/usr/sbin
need python3 python3
need mosquitto mosquitto
need mosquitto_pub mosquitto-clients
need node nodejs
need npm npm
need stdbuf coreutils
need chromium chromium
need valgrind valgrind
python3 -c 'import ensurepip, venv' 2>/dev/null || packages="$packages python3-venv"
if [ -n "$packages" ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup-tests: run as root, or install first:$packages" >&2
        exit 1
    fi
    apt-get update -q
    # The Debian package of mosquitto starts a broker on port 1883; the policy below keeps it from doing so, because the
    # port belongs to the broker under test.
    policy=/usr/sbin/policy-rc.d
    own_policy=no
    if [ ! -e $policy ]; then
        own_policy=yes
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    status=0
    # shellcheck disable=SC2086  # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages || status=$?
    [ $own_policy = no ] || rm -f $policy
    [ $status -eq 0 ] || exit $status
fi

# --- Python and Node.js packages: installed again only when the pinned list or the interpreter has changed. ------------------
mkdir -p "$venv" "$node"

wanted="$(python3 --version) $(sha256sum <$suite/requirements.txt)"
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    rm -f "$venv/installed"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement $suite/requirements.txt
    echo "$wanted" >"$venv/installed"
fi

wanted="$(node --version) $(cat $suite/package.json $suite/package-lock.json | sha256sum)"
if [ "$(cat "$node/installed" 2>/dev/null)" != "$wanted" ]; then
    rm -f "$node/installed"
    cp $suite/package.json $suite/package-lock.json "$node/"
    npm ci --prefix "$node" --silent --no-audit --no-fund --ignore-scripts
    echo "$wanted" >"$node/installed"
fi
