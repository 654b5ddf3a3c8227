"""The catalog's own types: the only code that reads or writes files."""
