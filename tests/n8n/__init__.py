"""Tests against a real n8n. They run by `pytest tests/n8n`, never with the other tests."""
