"""`iotid reproduce`: the paper's experiment on one of its datasets."""

import click

from iotid.cli import command, options
from iotid.config import Settings


@command.step("reproduce")
@click.option(
    "--dataset",
    required=True,
    type=click.Choice(("tmc18", "sosr19", "iot23", "cic_iot_2022")),  # paper.DATASETS, without loading NumPy for --help
    help="Which of the paper's datasets the captures are.",
)
@options.captures
@click.option("--counts-only", is_flag=True, help="Compare the counts of flows, and train nothing.")
def main(settings: Settings, dataset: str, captures: str, counts_only: bool) -> None:
    """Repeat the paper's experiment on one of its datasets, and compare the numbers with the paper's.

    Reads all captures of the folder, and conf/paper_tables.yaml. Assembles their flows in four variants (with or
    without time-outs, files joined or separate) and compares the counts, of TCP alone and of TCP and UDP, with tables 1
    and 2 of the paper. From the nearest variant it writes a dataset, trains, evaluates, and compares with table 3.
    Writes the table `reproductions`: a page and its numbers. Started again, it resumes.

    --config and --set override conf/paper.yaml. Each variant overrides flow.idle_timeout_s, flow.active_timeout_s,
    flow.join_files, dataset.protocols and dataset.label.
    """
    from iotid.cli.checks import check_machine
    from iotid.studies.reproduce import reproduce

    # a separate model name, so that the challenger of the user's network is not replaced
    settings = command.command_settings(["paper.yaml"], [f"tracking.model=iotid-{dataset}"])
    if not counts_only:
        check_machine(settings)
    written = reproduce(settings, dataset, captures, counts_only, lambda text: command.print_lines(*text.split("\n")))
    command.print_lines(f"reproduction: {written.uri}/reproduction.md")


if __name__ == "__main__":
    command.run_job(main)
