"""Data sets to train on: a folder of scans, some with masks, and an index that says what each is for."""

from c3s3_seg.dataset.index import INDEX, CaseRecord, DataSet, Splits

__all__ = ["INDEX", "CaseRecord", "DataSet", "Splits"]
