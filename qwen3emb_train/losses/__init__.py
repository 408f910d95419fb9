"""Mathematics on tensors: each loss is a dataclass of settings, called on vectors by role. No model, no tracker and no
process group appears here; other ranks' vectors arrive as an argument.
"""
