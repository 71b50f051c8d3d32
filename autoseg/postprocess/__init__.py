"""Stage 8: out-of-fold label maps -> rules that tidy up connected components, and label maps tidied up by them."""
