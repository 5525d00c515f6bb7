"""Objects of a store as a folder of Arrow files with a manifest, and back; see docs/export.md."""
