"""The targets of teachers for each view, computed once and kept on disk."""
