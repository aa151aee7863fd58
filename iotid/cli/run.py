"""`iotid run`: the full pipeline on a folder of captures."""

from __future__ import annotations

import click

from iotid.cli import command, options
from iotid.config import Settings


@command.step("run")
@options.captures
@options.labels_to_train
@click.option("--site", type=options.NAME, default="local", show_default=True, help="Site that the captures come from.")
@click.option("--date", "capture_date", type=options.DATE, help="Date; default: the day (UTC) of the first packet.")
@options.strict
def main(settings: Settings, captures: str, labels: tuple[str, ...], site: str, capture_date: str | None) -> None:
    """Run the full pipeline on a folder of captures: splits, flows, dataset, training, report, promotion, census.

    Without a device list no model is trained: the census uses the champion if there is one, else it lists unknown
    devices in groups.
    """
    from iotid.capture import first_day
    from iotid.cli.checks import check_settings
    from iotid.cli.pipeline import SiteCaptures, run_pipeline

    check_settings(settings, labels, [captures])
    own = SiteCaptures(site, capture_date or first_day(captures, settings.capture), captures)
    run_pipeline(settings, [own], [own] if labels else [], labels, f"{site}-{own.capture_date}")


if __name__ == "__main__":
    command.run_job(main)
