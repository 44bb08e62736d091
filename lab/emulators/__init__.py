"""Emulated devices and instruments; everything above the transports takes them for real ones."""
