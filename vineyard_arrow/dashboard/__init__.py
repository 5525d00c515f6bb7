"""The store in a browser, and its figures for Prometheus; see docs/dashboard.md."""
