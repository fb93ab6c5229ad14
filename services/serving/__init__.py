"""Where engines meet callers: in one process, or as Ray Serve deployments."""
