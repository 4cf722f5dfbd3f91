"""Content of a report: tables, figures, pictures and texts, and their order.

Imports: analyse, read.
"""
