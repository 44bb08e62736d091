"""The local store, which is the system of record, and its InfluxDB mirror."""

from measurements.store.local import OutboxBlock, Store, StoreCheck, new_run_id

__all__ = ["OutboxBlock", "Store", "StoreCheck", "new_run_id"]
