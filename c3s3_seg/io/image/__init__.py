"""Image files: NIfTI, NRRD, MetaImage and HDF5."""
