"""Export networks to graphs that run without torch, each compared with torch before it is written."""
