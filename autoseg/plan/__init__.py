"""Stage 2: fingerprint -> plan.json, by nnU-Net's rules."""
