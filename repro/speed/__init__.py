"""How fast the project is, in ratios that carry over from one machine to another."""
