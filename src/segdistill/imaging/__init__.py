"""Pictures in and out, and what happens to their pixels before and after a network. Imports no torch."""
