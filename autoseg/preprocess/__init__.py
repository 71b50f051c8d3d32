"""Stage 3: dataset + plan -> preprocessed/."""
