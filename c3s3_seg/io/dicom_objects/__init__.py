"""What is made of a DICOM series or drawn on one: SEG, RTSTRUCT, Secondary Capture."""
