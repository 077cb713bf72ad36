"""`python -m tests.docs.reference`: write the pages."""

from tests.docs.reference import write_pages

write_pages()
