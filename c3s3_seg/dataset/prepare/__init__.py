"""From a folder of scans and masks to a data set."""
