"""Work that outlives its request: accepted once, done once, whichever process dies meanwhile."""
