"""Overlap and boundary distances, and statistics over cases."""
