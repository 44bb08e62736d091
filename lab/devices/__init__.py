"""Device classes: deploy, run, reset, recover."""
