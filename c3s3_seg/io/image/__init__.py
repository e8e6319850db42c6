"""NIfTI, NRRD, MetaImage and HDF5."""
