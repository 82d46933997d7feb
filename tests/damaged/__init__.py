"""Bad files and bad configurations from a seed, and the judge of what is done with them."""
