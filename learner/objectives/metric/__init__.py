"""Objectives that compare pairs by distances and margins."""
