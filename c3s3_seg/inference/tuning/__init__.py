"""What runs fastest on this machine: measured, and kept as a profile."""
