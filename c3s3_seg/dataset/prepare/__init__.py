"""Build a data set from a folder of scans and masks."""
