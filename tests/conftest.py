"""Settings of every test."""

import torch

torch.set_num_threads(1)  # the networks are tiny: threads gain nothing, and lose much where cores are shared
