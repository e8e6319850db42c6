"""DICOM objects made from a series or drawn on a series: SEG, RTSTRUCT, Secondary Capture."""
