"""Write the bundle of a run, begin a run from one, combine and calibrate bundles."""
