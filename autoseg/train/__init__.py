"""Stage 4: preprocessed cases + plan -> models/<configuration>/fold_<k>."""
