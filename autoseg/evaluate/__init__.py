"""Stage 6: predicted and reference label maps -> evaluation.json, and comparisons of two of them."""
