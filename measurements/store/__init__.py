"""The local store, which is the system of record, and its InfluxDB mirror."""
