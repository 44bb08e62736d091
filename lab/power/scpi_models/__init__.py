"""SCPI dialects of instrument families, one file each."""
