"""Training of aligners: the prior of images, pairs of networks, losses, the loop."""
