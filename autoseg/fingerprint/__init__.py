"""Stage 1: dataset -> fingerprint.json."""
