"""Workspace folders, atomic file writes, checksums, weights and arrays, remote (fsspec) output, provenance.

Imports: errors.
"""
