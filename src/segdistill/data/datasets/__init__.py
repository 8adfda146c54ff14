"""Published datasets: one adapter per file, all listed here."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from segdistill.data.case import Case, require_unique
from segdistill.data.datasets.base import Dataset
from segdistill.data.datasets.busi import BUSI
from segdistill.data.datasets.chase_db1 import CHASE_DB1
from segdistill.data.datasets.coronary import CORONARY
from segdistill.data.datasets.dataset_b import DATASET_B
from segdistill.data.datasets.decathlon import DECATHLON
from segdistill.data.datasets.drive import DRIVE
from segdistill.data.datasets.duke_spleen import DUKE_SPLEEN
from segdistill.data.datasets.folder import FOLDER
from segdistill.data.datasets.frames import FRAMES
from segdistill.data.datasets.i2cvb import I2CVB
from segdistill.data.datasets.nci_isbi import NCI_ISBI
from segdistill.data.datasets.phantom import PHANTOM
from segdistill.data.datasets.promise12 import PROMISE12
from segdistill.data.datasets.prostate_multisite import PROSTATE_MULTISITE
from segdistill.data.datasets.stu import STU
from segdistill.data.datasets.sysu import SYSU
from segdistill.errors import InputError
from segdistill.registry import near_names

__all__ = ["DATASETS", "Dataset", "create_dataset"]

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        FOLDER,
        FRAMES,
        BUSI,
        DATASET_B,
        STU,
        SYSU,
        PROMISE12,
        PROSTATE_MULTISITE,
        NCI_ISBI,
        I2CVB,
        DECATHLON,
        DUKE_SPLEEN,
        CORONARY,
        DRIVE,
        CHASE_DB1,
        PHANTOM,
    )
}


def create_dataset(name: str, path: str | Path, **options: Any) -> list[Case]:
    """Turns a dataset as published, in the folder `path` (or one or two levels above it), into cases.

    Args:
        name: one of DATASETS.
        path: the dataset's folder.
        options: of this dataset; `phantom` has count, size and seed, `decathlon` task, `duke_spleen` modality,
            `chase_db1` observer.

    Raises:
        InputError: unknown dataset or option, a folder that is not it (names what was looked for), or masks
            without images.

    >>> import tempfile
    >>> len(create_dataset("phantom", Path(tempfile.mkdtemp()) / "new"))
    120
    """
    if name not in DATASETS:
        raise InputError(f"unknown dataset '{name}': {near_names(name, DATASETS)}")
    known = list(inspect.signature(DATASETS[name].index).parameters)[1:]
    for option in options:
        if option not in known:
            raise InputError(
                f"dataset '{name}' has no option '{option}': it has {', '.join(known) or 'none'}"
            )
    try:
        cases = DATASETS[name].index(Path(path), **options)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}): check the folder and its permissions"
        ) from error
    require_unique(cases)
    return cases
