"""The packet cache: a table in memory and its durable shadow in SQLite."""
