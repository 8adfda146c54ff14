"""The case table in one import: what a case is, how tables are read and written, chosen from and
identified.
"""

from segdistill.data.case import (
    SPLITS,
    Case,
    content_key,
    file_hash,
    normal_note,
    require_unique,
    select,
    table_hash,
)
from segdistill.data.reference import reference_mask
from segdistill.data.table import COLUMNS, read_cases, write_cases

__all__ = [
    "COLUMNS",
    "SPLITS",
    "Case",
    "content_key",
    "file_hash",
    "normal_note",
    "read_cases",
    "reference_mask",
    "require_unique",
    "select",
    "table_hash",
    "write_cases",
]
