"""Step 6: make the challenger the champion if a written policy allows it."""

from iotid.cli import command, options
from iotid.config import Settings


@command.step("promote")
@options.dataset
def main(settings: Settings, dataset: str) -> None:
    """Make the challenger the champion if conf/promotion.yaml allows it, and print the reasons.

    Reads the report on a dataset. Writes the decision, with the report on both, and sets the registry's alias
    `champion`, unless that changed since they were compared.
    """
    from iotid.partitions import Store
    from iotid.promotion import promote
    from iotid.tracking import Registry

    registry = Registry(settings.tracking, settings.storage.root)
    promotion = promote(Store(settings.storage.root), registry, dataset, settings.promotion)
    command.print_lines(*(f"promotion: {sentence}" for sentence in promotion.sentences))
