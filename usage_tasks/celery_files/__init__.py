"""Celery's settings and beat's schedule, by names that nobody else's files can have.

Both are the files at the top of the checkout: links here, copies in a wheel. Read as `celeryconfig`, the settings would
be those of a platform that keeps a celeryconfig.py of its own in the working directory. A configuration that changes
some of them begins with `from usage_tasks.celery_files.celeryconfig import *` and is named in CELERY_CONFIG_MODULE.
Only Celery imports from here.
"""
