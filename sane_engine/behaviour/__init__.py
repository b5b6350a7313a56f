"""What networks do with noise: numbers from weights and architecture, without data and without labels.

One room for all who ask: the baseline *behaviour on noise*, and SANE's readout, which is given at least the same.
"""
