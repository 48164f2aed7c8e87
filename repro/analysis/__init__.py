"""What results say: intervals, counts and comparisons, from result files alone."""
