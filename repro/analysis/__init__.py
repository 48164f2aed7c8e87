"""Statistics, claims, costs and ranks, computed from result files and the paper's numbers."""
