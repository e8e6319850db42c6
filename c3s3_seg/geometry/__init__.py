"""Volumes and their grids: positions in mm (LPS), axis orders, boxes, resampling."""
