"""The SQL side of the store: tables, statements, and a database that is asked in transactions."""
