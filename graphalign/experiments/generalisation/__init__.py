"""How alignment methods and aligners fare on networks, architectures, families, data sets and recipes that training never saw."""
