"""A Grafana dashboard over the mirror, and tasks that keep its essence for good; plain files, see docs/report.md."""
