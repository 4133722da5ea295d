"""`fedray results`."""

from pathlib import Path
from typing import Annotated

import typer

from fedray.errors import SpecError


def results(
    folder: Annotated[
        str, typer.Argument(metavar="DIR_OR_URI", help="Folder of one run, or of any number of runs below it.")
    ],
    write: Annotated[
        list[Path] | None, typer.Option(help="Also write the table to a .csv or .parquet file.", show_default=False)
    ] = None,
) -> None:
    """Print each setting's metrics over its seeds. A cell is mean ± standard deviation, in percent."""
    from analysis.summary import over_seeds
    from fedray.cli.results_table import print_over_seeds
    from fedray.files import replacing, this_process
    from fedray.results.loader import load_results

    files = write or []
    if wrong := [file for file in files if file.suffix not in (".csv", ".parquet")]:
        raise SpecError(f"--write takes a file that ends in .csv or .parquet, not '{wrong[0]}'.")
    print_over_seeds(folder)
    for file in files:
        table = over_seeds(load_results(folder))
        try:
            with replacing(file, this_process()) as partial:
                table.to_csv(partial, index=False) if file.suffix == ".csv" else table.to_parquet(partial)
        except OSError as error:
            raise SpecError(f"--write: '{file}' cannot be written ({error.strerror or error}).") from error
