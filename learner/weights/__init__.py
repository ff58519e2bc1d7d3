"""Weights for others: export, model card, ONNX, cool-down, publication."""
