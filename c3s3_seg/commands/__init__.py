"""The commands, which parse, call and show, without logic; heavy imports are inside the functions."""
