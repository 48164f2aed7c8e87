"""The speed benchmark, in ratios that are comparable between machines."""
