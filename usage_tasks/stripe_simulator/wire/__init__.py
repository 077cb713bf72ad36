"""Forms, parameters and errors as they travel."""
