"""Tables and figures, drawn from result files and the paper's numbers; nothing here trains or scores."""
