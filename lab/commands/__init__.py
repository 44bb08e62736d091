"""Command groups of the CLI, one file per noun; each is added to ``lab.cli.main`` by one line there."""
