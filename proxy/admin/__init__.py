"""The admin listener: health, metrics, ledger, keys. Not part of the data path."""
