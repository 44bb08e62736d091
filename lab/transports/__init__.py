"""Bytes and files to a device; nothing here knows of machine learning."""
