"""What may be asked for and what may be shown: policies, and what waits for a reviewer."""
