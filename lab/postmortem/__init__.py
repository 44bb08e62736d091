"""What happened to a core: fault registers in words, the calls that led there, the stacks, the region."""
