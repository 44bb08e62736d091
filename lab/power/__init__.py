"""Power meters and power switches, one file each."""
