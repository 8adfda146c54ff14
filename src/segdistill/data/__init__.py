"""The case table, published datasets, leak-free splits, the prepared store and the seeded views."""
