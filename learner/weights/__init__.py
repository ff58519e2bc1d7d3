"""Weights for others: the newest good ones of a run, model cards, ONNX, cool-downs."""
