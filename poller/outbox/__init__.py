"""The rows: tables, claim, record, recover, enqueue, operate. The only room that imports SQLAlchemy."""
