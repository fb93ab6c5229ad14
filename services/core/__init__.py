"""The words of the domain.

`errors`, `job`, `model`, `backend`, `images`, `parameters` and `validation` are free of torch.
"""
