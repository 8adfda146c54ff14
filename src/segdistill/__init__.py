"""Distil big medical-image segmentation networks into small ones that run anywhere.

`run`, `shrink`, `evaluate`, `compare`, `predict` and `load_model` do what the commands of the same names do. Parts
(networks, losses, methods, weightings, metrics, datasets, report sections) are built by `create_*`, added by
`register_*` and listed by `list_*`. Importing this module loads none of their dependencies; torch is loaded when it is
needed.

>>> import pathlib, tempfile
>>> import numpy as np
>>> import segdistill
>>> network = segdistill.create_network("simplified_unet", in_channels=1, widths=[2, 4])
>>> recipe = {"data": {"dataset": "phantom", "phantoms": 30, "size": 32, "channels": 1},
...           "stages": {"net": {"model": {"name": "simplified_unet", "widths": [2, 4]}}}}
>>> out = pathlib.Path(tempfile.mkdtemp()) / "run"
>>> result = segdistill.run(recipe, out=out, epochs=1, device="cpu", progress=False)
>>> result.stage("net").predict(np.zeros((40, 60), np.uint8)).mask.shape
(40, 60)
>>> len(result.metrics), segdistill.evaluate(out, stage="net").record.cases
(5, 5)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segdistill.data.datasets import create_dataset, list_datasets, register_dataset
    from segdistill.distillation.base import create_method, list_methods, register_method
    from segdistill.distillation.weighting import create_weighting, list_weightings, register_weighting
    from segdistill.experiment.compare import compare
    from segdistill.experiment.evaluate import evaluate
    from segdistill.experiment.model import load_model, predict
    from segdistill.experiment.run import run
    from segdistill.experiment.shrink import shrink
    from segdistill.losses.base import create_loss, list_losses, register_loss
    from segdistill.metrics.base import create_metric, list_metrics, register_metric
    from segdistill.models.registry import create_network, list_networks, register_network
    from segdistill.report.sections import (
        create_report_section,
        list_report_sections,
        register_report_section,
    )

__version__ = "0.2.0"
__all__ = [
    "__version__",
    "compare",
    "create_dataset",
    "create_loss",
    "create_method",
    "create_metric",
    "create_network",
    "create_report_section",
    "create_weighting",
    "evaluate",
    "list_datasets",
    "list_losses",
    "list_methods",
    "list_metrics",
    "list_networks",
    "list_report_sections",
    "list_weightings",
    "load_model",
    "predict",
    "register_dataset",
    "register_loss",
    "register_method",
    "register_metric",
    "register_network",
    "register_report_section",
    "register_weighting",
    "run",
    "shrink",
]


def __getattr__(name: str) -> Any:
    """Imports a function when it is first used; the table is `kinds.FUNCTIONS`."""
    import importlib

    from segdistill.errors import needs
    from segdistill.kinds import FUNCTIONS

    if name not in FUNCTIONS:
        raise AttributeError(f"module 'segdistill' has no attribute '{name}'")
    module, extra = FUNCTIONS[name]
    with needs(f"segdistill.{name}", extra):
        found = getattr(importlib.import_module(module), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names."""
    return __all__
