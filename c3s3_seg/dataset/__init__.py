"""Data sets to train on: a folder of scans, some with masks, and an index that assigns cases to splits."""

from c3s3_seg.dataset.index import INDEX, CaseRecord, DataSet, Splits

__all__ = ["INDEX", "CaseRecord", "DataSet", "Splits"]
