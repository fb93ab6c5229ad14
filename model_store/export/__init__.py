"""From a trained torch module to files that can be served, with a parity gate between them."""
