"""Read DICOM series: headers, grouping into volumes, grids, pixels."""
