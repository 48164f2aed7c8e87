"""How any model is trained, probed and diagnosed, independent of the data set."""
