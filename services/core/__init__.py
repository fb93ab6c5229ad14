"""The words of the domain. `errors`, `job`, `model`, `backend`, `images` and `parameters` are free of torch."""
