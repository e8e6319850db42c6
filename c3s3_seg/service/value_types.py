"""Types of the values in the table `serve`, with their allowed ranges."""

from __future__ import annotations

from typing import Annotated

from c3s3_seg.errors import C3S3Error
from c3s3_seg.system.memory import parse_memory
from c3s3_seg.system.schema import Rule

Positive = Annotated[float, Rule(lambda value: 0 < value <= 1e9, "a positive number")]
NotNegative = Annotated[float, Rule(lambda value: 0 <= value <= 1e9, "a number from 0")]
Count = Annotated[int, Rule(lambda value: 0 < value <= 1_000_000, "a whole number from 1")]
Port = Annotated[int, Rule(lambda value: 0 < value < 65536, "a port from 1 to 65535")]
Modality = Annotated[str, Rule(lambda text: text.isalnum() and len(text) <= 16, "a modality such as MR")]


def _is_size(text: str) -> bool:
    try:
        return parse_memory(text) > 0
    except C3S3Error:
        return False


Size = Annotated[str, Rule(_is_size, "a size such as 4GB or 900MB")]
