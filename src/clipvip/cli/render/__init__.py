"""What verbs print and the pages that they write: tables, lines and HTML. A verb imports the module that it needs."""
