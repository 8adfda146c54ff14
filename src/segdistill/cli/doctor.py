"""segdistill doctor [MODEL...]: the machine, its engines, and whether model files give here what they should."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli.shared import AsJson, print_json
from segdistill.errors import GateFailed


def doctor(
    models: Annotated[list[Path] | None, typer.Argument(help="model files to test on this machine")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what this machine runs model files with, and test them.

    Each file has the result of its network on synthetic images. It is compared with what each installed engine gives
    here.
    """
    from segdistill.runtime.doctor import examine

    found = examine(models or [])
    if as_json:
        print_json(found.to_dict())
    else:
        print("\n".join(found.lines()))
    if found.failed:
        one = found.failed[0]
        raise GateFailed(
            f"{len(found.failed)} of {len(found.findings)} self-tests failed, such as {one.model} with {one.engine}: "
            "use another engine here, or export the file again"
        )
