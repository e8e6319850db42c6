"""From a data set, a time budget and a memory limit to a configuration."""
