"""What the package needs of the machine: files, locks, processes, memory, configuration schemas."""
