"""Write a report as HTML, Markdown, LaTeX and CSV files, and as text for a terminal.

Imports: present, analyse, read.
"""
