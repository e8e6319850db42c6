"""The version of the package, defined only here; pyproject.toml reads it."""

__version__ = "0.1.0"
