"""Continual learning on a device: classes that come one after another, and what keeps the earlier ones."""
