"""`a4a check`: the first ten minutes of a recipe on a GPU, step by step, before hours of it are paid for."""
