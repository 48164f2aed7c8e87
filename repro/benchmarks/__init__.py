"""The benchmark families of the paper: one folder each, none knows of another, of YAML or of any method."""
