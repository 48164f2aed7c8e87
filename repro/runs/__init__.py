"""One run: build, train, select, test, record; and what finished runs leave."""
