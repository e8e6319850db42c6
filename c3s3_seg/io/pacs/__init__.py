"""DICOM over the network: find, fetch, send."""
