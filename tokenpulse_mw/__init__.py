"""tokenpulse_mw."""
