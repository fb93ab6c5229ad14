"""The HTTP surface: FastAPI over one `services.core.backend.Backend`, free of torch and of Ray."""
