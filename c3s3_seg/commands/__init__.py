"""The commands: each parses, calls and shows. No logic; heavy imports are inside the functions."""
