"""Alert store in an SQL database: statements, transactions and tables."""
