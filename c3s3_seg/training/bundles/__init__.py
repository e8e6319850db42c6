"""Bundles: written by a run, begun from, combined, calibrated."""
