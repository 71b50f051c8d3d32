"""A model in a form that other programs run: networks as ONNX files, and a predictor that needs no autoseg."""
