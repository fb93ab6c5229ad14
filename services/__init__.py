"""The service: domain words, sampling maths, the loop, families, serving and the gateway."""
