"""Weights from elsewhere to start from: read within bounds, given timm's names, recognised, and put into a backbone."""
