"""Stage 5: models + images -> label maps on the images' own grid."""
