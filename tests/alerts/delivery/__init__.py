"""Tests of the outbox, its queues and its workers."""
