"""Places and tables: what lies where, what is to be done, what is written."""
