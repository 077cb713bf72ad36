"""Commands that run, watch and check an installation."""
