"""What happens to a case's arrays between its files and the network, and back."""
