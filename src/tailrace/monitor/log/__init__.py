"""The prediction log: what was predicted, and of what, kept in Parquet files by the hour."""
