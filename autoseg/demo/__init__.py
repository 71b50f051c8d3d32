"""A generated dataset, a simple baseline and pictures, to see the whole way in minutes."""
