"""Weight initialization for bad mathematicians."""
