"""segdistill run RECIPE: train, evaluate, report, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli.progress import needs
from segdistill.errors import CasesFailed, InputError


def run(
    recipe: Annotated[str, typer.Argument(help="name of a recipe (segdistill list recipes) or a .yaml file")],
    data: Annotated[Path | None, typer.Option(help="cases.csv, or a folder with images/ and masks/")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, such as epochs=20 or stages.student.model.name=unet"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; the same folder continues it")] = None,
    stages: Annotated[
        str | None, typer.Option(help="only these stages (comma between) and their teachers; or all")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu")] = "auto",
    devices: Annotated[int, typer.Option(help="number of devices per node")] = 1,
    nodes: Annotated[int, typer.Option(help="number of nodes")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print the results as JSON")] = False,
    more: Annotated[
        list[str] | None, typer.Argument(help="further key=value after --set", metavar="[KEY=VALUE]...")
    ] = None,
) -> None:
    """Train the stages of a recipe, evaluate them, and write report and model file. Run it again to continue."""
    from segdistill.config.load import load_recipe

    loaded = load_recipe(recipe, [*(changes or []), *(more or [])])
    folder = out or Path("runs") / loaded.name
    with needs("training", "train"):
        from segdistill.cli.progress import show
        from segdistill.experiment.machine import Machine, is_first_process
        from segdistill.experiment.run import run_recipe

    wanted = list(loaded.stages) if stages == "all" else stages.split(",") if stages is not None else None
    if wanted is not None and not any(name.strip() for name in wanted):
        raise InputError("--stages names none: give names with commas between, or all")
    failure: CasesFailed | None = None
    try:
        show(run_recipe(loaded, data, folder, Machine(device, devices, nodes), wanted))
    except CasesFailed as error:
        failure = error  # told after the table of what is done
    if is_first_process():
        variants: dict[str, list[str]] = {}
        if loaded.folds is None:
            for name in loaded.chosen(wanted):
                if (variant := loaded.stages[name].variant) is not None:
                    variants[variant] = loaded.named(variant)
        _print_results(folder, as_json, variants)
    if failure is not None:
        raise failure


def _print_results(folder: Path, as_json: bool, variants: dict[str, list[str]]) -> None:
    from segdistill.experiment.results import run_summary, variants_table

    summary = run_summary(folder)
    if as_json:
        import json

        print(json.dumps(summary, indent=2))
        return
    for name, stage in summary["stages"].items():
        if not any(name in seeds for seeds in variants.values()):
            print(f"{name:24}{stage['line']}")
    if variants:
        print("\n".join(variants_table(folder, variants)))
    print(f"report      {folder / 'report.html'}")
    if summary["model"]:
        print(f"model file  {summary['model']}")
