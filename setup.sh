#!/usr/bin/env bash
# setup.sh [main|airflow|peers]: make the environment from its lock. Make calls it; a second call has nothing to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

stop() { printf 'setup: %s\n' "$*" >&2; exit 2; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
may_install() { command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; }
install_debian() {
  as_root apt-get -qq update && DEBIAN_FRONTEND=noninteractive as_root apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

find_python() {
  for candidate in "${PYTHON:-}" python3.11 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      command -v "$candidate"; return
    fi
  done
  stop "CPython 3.11 is needed and was not found; install it (Debian 12: sudo apt-get install python3.11) or set PYTHON"
}

java_is_right() {
  local java=java
  [ -z "${JAVA_HOME:-}" ] || java="$JAVA_HOME/bin/java"
  "$java" -version 2>&1 | grep -qE 'version "(17|21)[."]'
}

need_java() {
  java_is_right && return
  local line='Java 17 or 21 is needed; run: sudo apt-get install -y openjdk-17-jre-headless'
  [ -z "${JAVA_HOME:-}" ] || stop "JAVA_HOME=$JAVA_HOME holds no Java 17 or 21; point it at one, or unset it"
  may_install || stop "$line"
  echo 'setup: installing Java (openjdk-17-jre-headless)'
  install_debian openjdk-17-jre-headless || install_debian openjdk-21-jre-headless || stop "$line"
  java_is_right || stop "$line"
}

want_peer_programs() { # tshark and nfpcapd; what is compared with an absent one is skipped by name
  local missing=()
  command -v tshark >/dev/null || missing+=(tshark)
  command -v nfpcapd >/dev/null || missing+=(nfdump)
  [ "${#missing[@]}" -gt 0 ] || return 0
  if may_install; then
    echo "setup: installing ${missing[*]}"
    install_debian "${missing[@]}" && return
  fi
  echo "setup: not installed, tests and benchmarks skip them: ${missing[*]} (sudo apt-get install -y ${missing[*]})"
}

make_venv() { # make_venv FOLDER: an empty virtual environment that has uv
  local python
  python=$(find_python)
  if ! "$python" -m venv --clear "$1" >/dev/null 2>&1; then
    may_install && install_debian python3.11-venv ||
      stop 'the venv module is missing; run: sudo apt-get install -y python3.11-venv'
    "$python" -m venv --clear "$1"
  fi
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' requirements.lock)"
}

# uv does not read pip's settings: pass on what a person has set for pip
export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}"
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
[ -z "${PIP_EXTRA_INDEX_URL:-}" ] || export UV_INDEX="${UV_INDEX:-$PIP_EXTRA_INDEX_URL}"
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"

install_lock() { # install_lock FOLDER LOCK: exactly the lock, without resolving (two of its pins contradict each other)
  "$1/bin/uv" pip install --quiet --python "$1/bin/python" --no-deps --compile-bytecode -r "$2"
}

compile_kernels() { # once here, instead of in every worker of the first run
  .venv/bin/python - <<'END'
import tempfile
from pathlib import Path

from iotid.capture.simulate import write_demo
from iotid.config import load_settings
from iotid.flows import from_captures

# cut into pieces, with a time-out and bytes kept, so that all kernels run
small = load_settings(overrides=["capture.split_bytes=16384", "capture.chunk_bytes=4096"]).capture
with tempfile.TemporaryDirectory() as folder:
    write_demo(Path(folder))
    assert len(from_captures(f"{folder}/captures", active_timeout_s=5, keep_bytes=1, capture=small)) > 1000
END
}

case "${1:-main}" in
  main)
    need_java
    echo 'setup: main environment (.venv) from requirements.lock'
    make_venv .venv
    install_lock .venv requirements.lock
    # the registry's torch is a CUDA build that needs libraries which a CPU build does not: let the resolver add them
    .venv/bin/python -c 'import torch' 2>/dev/null ||
      .venv/bin/uv pip install --quiet --python .venv/bin/python -c requirements.lock "$(grep '^torch==' requirements.lock)"
    .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
    compile_kernels
    .venv/bin/python -c 'from iotid.session import archive_classes; archive_classes()' >/dev/null 2>&1 ||
      echo 'setup: no archive of Spark classes could be made; Spark starts slower without it'
    touch .venv/.ready
    ;;
  airflow)
    echo 'setup: Airflow environment (.venv-airflow) from requirements-airflow.lock'
    make_venv .venv-airflow
    install_lock .venv-airflow requirements-airflow.lock
    touch .venv-airflow/.ready
    ;;
  peers)
    want_peer_programs
    echo 'setup: peers (.venv-peers) from requirements-peers.lock'
    make_venv .venv-peers
    install_lock .venv-peers requirements-peers.lock
    touch .venv-peers/.ready
    ;;
  *) stop "unknown environment '$1': main, airflow or peers" ;;
esac
