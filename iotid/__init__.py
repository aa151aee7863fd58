"""iotid names the IoT devices behind network captures. Importing it loads none of the heavy libraries."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> str:
    """The version, looked up when it is first asked for: a Spark worker that does not ask saves 0.2 s."""
    if name != "__version__":
        raise AttributeError(f"module 'iotid' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("iotid")
    except PackageNotFoundError:  # a source tree that was never installed
        found = "0+unknown"
    globals()["__version__"] = found
    return found
