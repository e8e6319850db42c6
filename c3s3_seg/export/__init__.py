"""From torch to graphs that run without it, each compared with torch before it is written."""
