"""Metrics of overlap and boundary distance, and statistics over cases."""
