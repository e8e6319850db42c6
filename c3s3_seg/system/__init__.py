"""Use of the machine by the package: files, locks, processes, memory, configuration schemas."""
