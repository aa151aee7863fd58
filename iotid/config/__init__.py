"""Settings: YAML layers merged into frozen sections. An unknown key, a wrong type or a value out of range is an error.

``conf/base.yaml`` has every setting once with its unit and reason; there are no defaults in Python. A function gets
the section that it needs, never all settings.
"""

from iotid.config.folders import conf_dir, package_dir
from iotid.config.layers import DEFAULT_LAYERS, load_settings, make_section, settings_hash, with_values
from iotid.config.sections import (
    COMPARED,
    Capture,
    Census,
    Dataset,
    Evaluation,
    Flow,
    Model,
    Promotion,
    Settings,
    Spark,
    Storage,
    Tracking,
    Training,
    Watched,
    Watchlist,
    to_nfc,
)

__all__ = [
    "COMPARED",
    "DEFAULT_LAYERS",
    "Capture",
    "Census",
    "Dataset",
    "Evaluation",
    "Flow",
    "Model",
    "Promotion",
    "Settings",
    "Spark",
    "Storage",
    "Tracking",
    "Training",
    "Watched",
    "Watchlist",
    "conf_dir",
    "load_settings",
    "make_section",
    "package_dir",
    "settings_hash",
    "to_nfc",
    "with_values",
]
