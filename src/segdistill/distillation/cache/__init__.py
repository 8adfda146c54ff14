"""What teachers give for each view, computed once and kept on disk."""
