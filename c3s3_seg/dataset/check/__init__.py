"""A data set is checked before anything is trained on it."""
