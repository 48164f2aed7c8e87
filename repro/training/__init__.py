"""How any model is trained, probed and looked into; knows no data set."""
