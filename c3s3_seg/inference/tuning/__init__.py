"""Find the fastest way to run networks on this machine, and keep it as a profile."""
