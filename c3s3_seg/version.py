"""The version of the package: its one source, which pyproject.toml reads too."""

__version__ = "0.1.0"
