"""iotid names the IoT devices behind network captures. Importing it loads none of the heavy libraries."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("iotid")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
