"""Plan a configuration from a data set, a time budget and a memory limit."""
