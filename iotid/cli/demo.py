"""`iotid demo`: the full pipeline on synthetic captures."""

from pathlib import Path

import click

from iotid.cli import command
from iotid.config import Settings
from iotid.errors import SettingError
from iotid.messages import one_line


@command.step("demo", config=("local.yaml", "demo.yaml"))
def main(settings: Settings) -> None:
    """Write synthetic captures of two sites on two dates, then run the full pipeline on them.

    Trains on the first date of both sites and takes the census of both dates: on the second, one device is new, one is
    gone and one is of a kind that the model has not learned.
    """
    from iotid.cli.checks import check_settings
    from iotid.cli.pipeline import SiteCaptures, run_pipeline
    from iotid.simulate.captures import write_demo

    if "://" in settings.storage.root:
        raise SettingError(f"storage.root: the demo needs a local folder, got {settings.storage.root}")
    folder = Path(settings.storage.root) / "demo"
    click.secho(one_line(f"writing captures below {folder}"), bold=True, err=True)
    write_demo(folder)
    labels = [str(folder / "devices.yaml")]
    folders = sorted((folder / "captures").glob("*/*"))  # SITE/DATE
    check_settings(settings, labels, [str(path) for path in folders])
    inputs = [SiteCaptures(path.parent.name, path.name, str(path)) for path in folders]
    first = min(site.capture_date for site in inputs)
    learn_from = [site for site in inputs if site.capture_date == first]
    run_pipeline(settings, inputs, learn_from, labels, "demo")


if __name__ == "__main__":
    command.run_job(main)
