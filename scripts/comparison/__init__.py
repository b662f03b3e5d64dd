"""What `compare.py` is made of: brokers, loads, measurements, tables."""
