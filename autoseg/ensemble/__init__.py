"""Stage 7: out-of-fold predictions -> which configurations predict, and how their probabilities become labels."""
