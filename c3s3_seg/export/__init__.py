"""From torch to graphs that run without it, each with proof that it says the same."""
