"""Train several methods and seeds under one recipe, and record their scores."""
