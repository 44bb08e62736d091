"""Security workloads: what a deployed network gives away."""
