"""The Parquet activation cache: write, stream, shuffle."""
