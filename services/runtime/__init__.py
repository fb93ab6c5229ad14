"""The one loop: admission, batch formation, cancellation, retries, heartbeat, timings."""
